"""Reading and editing the synapses of a wiring, one by one and many at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ..checks import float_dtype, host_numbers, sizes
from . import _checks
from ._matrices import MATRICES, SynapseMatrices


class Synapse(NamedTuple):
    """From a neuron, or an input, to a neuron: `source`, `target`, and the polarity +1 (excitatory)
    or -1 (inhibitory).

    Example:
        >>> wiring = Wiring(3)
        >>> wiring.add_synapse(2, 0, -1)
        >>> list(wiring.get_synapses())
        [Synapse(source=2, target=0, polarity=-1)]
    """

    source: int
    target: int
    polarity: int


class Synapses(SynapseMatrices):
    """The two matrices with what reads and sets single synapses; base of Wiring."""

    def is_built(self) -> bool:
        """Whether the number of inputs is known."""
        return self.input_dim is not None

    def add_synapse(self, src: int, dest: int, polarity: int) -> None:
        """Sets the synapse from neuron ``src`` to neuron ``dest`` to ``polarity``, -1 or +1."""
        polarity = _checks.polarity("add_synapse", polarity)
        self._connect("add_synapse", "adjacency_matrix", src, dest, polarity)

    def add_sensory_synapse(self, src: int, dest: int, polarity: int) -> None:
        """Sets the synapse from input ``src`` to neuron ``dest`` to ``polarity``, -1 or +1."""
        self._require_built("add_sensory_synapse")
        polarity = _checks.polarity("add_sensory_synapse", polarity)
        self._connect("add_sensory_synapse", "sensory_adjacency_matrix", src, dest, polarity)

    def remove_synapse(self, src: int, dest: int) -> None:
        """Removes the synapse from neuron ``src`` to neuron ``dest``, if there is one."""
        self._connect("remove_synapse", "adjacency_matrix", src, dest, 0)

    def remove_sensory_synapse(self, src: int, dest: int) -> None:
        """Removes the synapse from input ``src`` to neuron ``dest``, if there is one."""
        self._require_built("remove_sensory_synapse")
        self._connect("remove_sensory_synapse", "sensory_adjacency_matrix", src, dest, 0)

    def prune(
        self,
        remove: Callable[[Synapse], bool] | mx.array | np.ndarray | list[list[bool]],
        *,
        sensory: bool = False,
    ) -> int:
        """Removes the synapses between neurons, or those from the inputs when ``sensory``, that
        ``remove`` names: an array of bools ``[source, target]``, True where one goes, or a function
        of a :class:`Synapse` that returns True. Returns how many there were.

        The wiring of a built layer acts on it at once, as :meth:`remove_synapse` does.
        Raises ValueError for an array of another shape.
        """
        sensory = _checks.flag("prune", "sensory", sensory)
        if sensory:
            self._require_built("prune")
        name = MATRICES[sensory]
        matrix = np.array(self._known(name))
        if callable(remove):
            gone = np.zeros(matrix.shape, bool)
            for synapse in self.get_synapses(sensory=sensory):
                gone[synapse.source, synapse.target] = bool(remove(synapse))
        else:
            wanted = f"a function or bools {matrix.shape}"
            gone = host_numbers("prune", "remove", remove, wanted)
            if gone.shape != matrix.shape or gone.dtype != bool:
                raise ValueError(f"[prune] remove must be {wanted}, got {gone.dtype} {gone.shape}.")
        count = int(np.count_nonzero(matrix[gone]))
        matrix[gone] = 0
        setattr(self, name, matrix)
        return count

    def _connect(self, op: str, name: str, src: int, dest: int, polarity: int) -> None:
        matrix = np.array(self._known(name))
        src = _checks.integer(op, "src", src, 0, matrix.shape[0])
        dest = _checks.integer(op, "dest", dest, 0, matrix.shape[1])
        matrix[src, dest] = polarity
        setattr(self, name, matrix)

    @property
    def synapse_count(self) -> int:
        """Number of synapses between neurons."""
        return int(np.count_nonzero(self.adjacency))

    @property
    def sensory_synapse_count(self) -> int:
        """Number of synapses from the inputs; 0 before :meth:`build`."""
        host = self.sensory_adjacency if self.is_built() else None
        return 0 if host is None else int(np.count_nonzero(host))

    def erev_initializer(
        self, shape: Sequence[int] | None = None, dtype: mx.Dtype | None = None
    ) -> mx.array:
        """Initial reversal potentials ``[H, H]``: the adjacency as float32, or as ``dtype``."""
        return _as_initial("erev_initializer", self.adjacency, shape, dtype)

    def sensory_erev_initializer(
        self, shape: Sequence[int] | None = None, dtype: mx.Dtype | None = None
    ) -> mx.array:
        """Initial sensory reversal potentials ``[I, H]``: float32, or ``dtype``."""
        self._require_built("sensory_erev_initializer")
        return _as_initial("sensory_erev_initializer", self._known(MATRICES[1]), shape, dtype)

    def get_synapses(
        self, source: int | None = None, target: int | None = None, *, sensory: bool = False
    ) -> list[Synapse]:
        """The synapses between neurons, or those from the inputs when ``sensory``, as a list of
        ``Synapse(source, target, polarity)``: all, or those of one source, one target, or both.

        Raises:
            ValueError: no such neuron or input; ``sensory`` before :meth:`build`.
        """
        sensory = _checks.flag("get_synapses", "sensory", sensory)
        if sensory:
            self._require_built("get_synapses")
        matrix = self._known(MATRICES[sensory])
        for name, given, size in zip(
            ("source", "target"), (source, target), matrix.shape, strict=True
        ):
            if given is not None:
                _checks.integer("get_synapses", name, given, 0, size)
        return [
            Synapse(int(a), int(b), int(matrix[a, b]))
            for a, b in np.argwhere(matrix)
            if source in (None, a) and target in (None, b)
        ]

    def _require_built(self, op: str) -> None:
        if not self.is_built():
            raise ValueError(
                f"[{op}] the wiring must be built, got input_dim=None: call build(input_dim) first."
            )


def _as_initial(
    op: str, host: np.ndarray, shape: Sequence[int] | None, dtype: mx.Dtype | None
) -> mx.array:
    if shape is not None and sizes(op, "shape", shape) != host.shape:
        raise ValueError(f"[{op}] shape must be {host.shape}, got {tuple(shape)}.")
    return mx.array(host).astype(float_dtype(op, dtype))
