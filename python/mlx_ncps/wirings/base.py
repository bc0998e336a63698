"""Wiring: the synapses behind a cell, i.e. the masks and polarities of an LTC cell (M and E of its
unfold) and the masks of a wired CfC cell; base of all wirings.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from .. import limits
from ..checks import brief
from ..config import construct, encoded_arguments, register
from ..config_bounds import check_nesting
from ..recording import recorded
from . import _checks, draw
from ._matrices import MATRICES, MatrixLike
from .synapses import Synapse as Synapse  # where pickles of it look
from .synapses import Synapses

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch
    from networkx import DiGraph
    from typing_extensions import Self


@register
class Wiring(Synapses):
    """Synapses between neurons, and from the inputs to the neurons.

    Entry ``[source, target]`` of a matrix is +1 (excitatory), -1 (inhibitory) or 0 (no synapse). A
    wiring starts without synapses; subclasses draw them, :meth:`add_synapse` and
    :meth:`add_sensory_synapse` set one, and assigning a whole matrix sets all of them at once.

    Args:
        units: number of neurons H, the state size of the cell.
        output_dim: number of motor neurons O, the first O neurons; ``None`` until known.
        input_dim: number of inputs I; given, the wiring is built at once.

    Attributes:
        units: the number of neurons, as `output_dim` and `input_dim` a plain int.
        adjacency_matrix: ``mx.array`` int32 ``[H, H]``; never trained, always saved.
        sensory_adjacency_matrix: ``mx.array`` int32 ``[I, H]``; ``None`` before :meth:`build`.

    A subclass draws its recurrent synapses in ``__init__`` and its sensory ones in
    ``build(input_dim)``, after ``super().build(input_dim)``; that ``build`` is made idempotent. The
    arguments of its constructor are recorded for ``get_config``. With ``num_layers`` and
    ``get_neurons_of_layer`` of its own a wired CfC follows its layers.

    Raises:
        ValueError: a size is not a positive integer, or ``output_dim`` exceeds ``units``.

    Example:
        >>> wiring = Wiring(3, output_dim=1, input_dim=2)
        >>> wiring.add_sensory_synapse(0, 2, 1)
        >>> wiring.add_synapse(2, 0, -1)
        >>> wiring.adjacency_matrix.tolist()
        [[0, 0, 0], [0, 0, 0], [-1, 0, 0]]
    """

    output_dim: int | None

    def __init__(
        self, units: int, output_dim: int | None = None, input_dim: int | None = None
    ) -> None:
        super().__init__()
        self.units = _checks.integer(self._op, "units", units, 1)
        _checks.at_most(self._op, "units * units", self.units**2, limits.MAX_PLACES)
        self.output_dim = None
        self.adjacency_matrix = np.zeros((self.units, self.units), np.int32)
        if output_dim is not None:
            self.set_output_dim(output_dim)
        if input_dim is not None:
            self.build(input_dim)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        register(cls)
        if "__init__" in cls.__dict__:
            cls.__init__ = recorded(cls.__init__)
        if "build" in cls.__dict__:
            cls.build = _build_once(cls.build)

    # Building

    def build(self, input_dim: int) -> None:
        """Fixes the number of inputs and draws the sensory synapses.

        A second call with the same width does nothing.

        Raises:
            ValueError: the wiring was built for another width, or ``input_dim`` is not a positive
                integer.
        """
        self.set_input_dim(input_dim)

    def set_input_dim(self, input_dim: int) -> None:
        """Fixes the number of inputs, without sensory synapses; errors as :meth:`build`."""
        if not self._is_built_for(input_dim):
            _checks.at_most(self._op, "input_dim", int(input_dim), limits.MAX_WIRED_INPUTS)
            places = int(input_dim) * self.units
            _checks.at_most(self._op, "input_dim * units", places, limits.MAX_PLACES)
            self.input_dim = int(input_dim)
            self.sensory_adjacency_matrix = np.zeros((self.input_dim, self.units), np.int32)

    def set_output_dim(self, output_dim: int) -> None:
        """Sets the number of motor neurons, 1 to ``units``."""
        output_dim = _checks.integer(self._op, "output_dim", output_dim, 1)
        self.output_dim = _checks.at_most(self._op, "output_dim", output_dim, self.units, "units")

    def _is_built_for(self, input_dim: Any) -> bool:
        given = _checks.integer("build", "input_dim", input_dim, 1)
        if self.input_dim not in (None, given):
            raise ValueError(
                f"[build] input_dim must be {self.input_dim}, for which this "
                f"{type(self).__name__} is built, got {given}."
            )
        return self.is_built()

    # Neurons

    @property
    def num_layers(self) -> int:
        """Number of layers that a wired CfC cell makes of the neurons."""
        return 1

    def get_neurons_of_layer(self, layer_id: int) -> list[int]:
        """Neuron ids of a layer, 0 to ``num_layers`` - 1, as a list."""
        _checks.integer("get_neurons_of_layer", "layer_id", layer_id, 0, self.num_layers)
        return list(range(self.units))

    def get_type_of_neuron(self, neuron_id: int) -> str:
        """``"motor"`` for the first ``output_dim`` neurons, ``"inter"`` for the others."""
        neuron_id = _checks.integer("get_type_of_neuron", "neuron_id", neuron_id, 0, self.units)
        return "motor" if neuron_id < (self.output_dim or 0) else "inter"

    def get_neurons_of_type(self, neuron_type: str) -> list[int]:
        """Ids of all neurons whose :meth:`get_type_of_neuron` is ``neuron_type``, as a list."""
        if not isinstance(neuron_type, str):
            raise _checks.refused("get_neurons_of_type", "neuron_type", "a name", neuron_type)
        return [n for n in range(self.units) if self.get_type_of_neuron(n) == neuron_type]

    # Saving and copying

    def get_config(self) -> dict[str, Any]:
        """Everything that :meth:`from_config` needs, JSON-compatible: the constructor's arguments,
        the number of inputs and the matrices.
        """
        arguments = encoded_arguments(self) or {"units": self.units, "output_dim": self.output_dim}
        matrices = {name: _as_list(self._host(name)) for name in MATRICES}
        return {**arguments, "input_dim": self.input_dim, **matrices}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The wiring of a ``get_config()``, built when that one was.

        Takes what ncps saved too, except for its NCP, whose ``get_config`` fails.
        """
        if not isinstance(config, Mapping):
            raise _checks.refused("from_config", "config", "a dict", config)
        check_nesting(config)
        arguments = dict(config)
        matrices = {name: arguments.pop(name, None) for name in MATRICES}
        input_dim = arguments.pop("input_dim", None)
        wiring = construct(cls, arguments)
        if input_dim is not None:
            wiring.build(input_dim)
        for name, matrix in matrices.items():
            if matrix is not None:
                wiring[name] = matrix
        return wiring

    def _config_of(self, cls: type[Wiring], arguments: dict[str, Any]) -> dict[str, Any]:
        """``arguments`` of ``cls``, and the matrices if ``cls`` draws others (edited, loaded)."""
        if type(self).__init__ is not cls.__init__:  # a user's subclass with arguments of its own
            cls, arguments = type(self), encoded_arguments(self)
        config = {**arguments, "input_dim": self.input_dim}
        drawn = cls.from_config(config)
        for name in MATRICES:
            if not _equal(self._host(name), drawn._host(name)):
                config[name] = _as_list(self._host(name))
        return config

    def state_dict(self) -> dict[str, mx.array]:
        """The matrices by name, ``mx.array`` int32; the sensory one only when built."""
        return {name: self[name] for name in MATRICES if name in self}

    def load_state_dict(self, state_dict: Mapping[str, MatrixLike]) -> Self:
        """Takes over the matrices of a :meth:`state_dict`; a sensory one builds an unbuilt wiring.

        Raises:
            ValueError: a matrix is missing, unknown, of another shape, or does not hold -1, 0, +1.
        """
        wanted = {"adjacency_matrix", *self.state_dict()}
        if not isinstance(state_dict, Mapping):
            raise _checks.refused("load_state_dict", "state_dict", "a dict", state_dict)
        if not wanted <= set(state_dict) <= set(MATRICES):
            raise ValueError(
                f"[load_state_dict] wanted {sorted(wanted)}, got {brief(list(state_dict))}."
            )
        for name, matrix in state_dict.items():
            self._checked(name, matrix)
        for name, matrix in state_dict.items():
            self[name] = matrix
        return self

    def copy(self) -> Self:
        """An independent copy, random state included: what a layer keeps for itself."""
        return copy.deepcopy(self)

    def as_given(self) -> Self:
        """A copy of what the owner made: not built if only a layer built it. Layers start here."""
        before, drawn = self.__dict__.get("_before_layer", (self, None))
        edited = drawn is not None and any(self._read(name) is not drawn[name] for name in MATRICES)
        return (self if edited else before).copy()

    def unless_drawn_by(self, before: Wiring) -> Wiring:
        """``before``, if it draws the synapses that this wiring has; else a copy of this: what a
        configuration tells.
        """
        drawn = before.copy()
        if self.input_dim is not None:
            drawn.build(self.input_dim)
        same = all(_equal(self._host(name), drawn._host(name)) for name in MATRICES)
        return before if same else self.copy()

    def build_by_layer(self, input_dim: int) -> None:
        """Builds this wiring, unless it is built, for the owner of the first layer made with it to
        read and draw, as in ncps; layers of any width still start from :meth:`as_given`.
        """
        if not self.is_built():
            before = self.copy()
            self.build(input_dim)
            drawn = {name: self._read(name) for name in MATRICES}  # in place edits make others
            self.__dict__["_before_layer"] = before, drawn  # no parameter; dropped by the next edit

    def __copy__(self) -> Self:
        return self.copy()  # a shared random state would make the copy draw other synapses

    def _extra_repr(self) -> str:
        return (
            f"units={self.units}, output_dim={self.output_dim}, input_dim={self.input_dim}, "
            f"synapses={self.synapse_count}, sensory_synapses={self.sensory_synapse_count}"
        )

    # Drawing

    def get_graph(self, include_sensory_neurons: bool = True) -> DiGraph:
        """The wiring as a ``networkx.DiGraph``: nodes carry ``neuron_type``, edges ``polarity``."""
        self._require_built("get_graph")
        include_sensory_neurons = _checks.flag(
            "get_graph", "include_sensory_neurons", include_sensory_neurons
        )
        return draw.graph_of(self, include_sensory_neurons)

    def draw_graph(
        self,
        layout: str = "shell",
        neuron_colors: Mapping[str, draw.Color] | None = None,
        synapse_colors: str | Mapping[str, draw.Color] | None = None,
        draw_labels: bool = False,
        *,
        ax: Axes | None = None,
        legend: bool = False,
    ) -> list[Patch]:
        """Draws the wiring with matplotlib; see :func:`mlx_ncps.wirings.draw.draw_graph`."""
        self._require_built("draw_graph")
        return draw.draw_graph(
            self, layout, neuron_colors, synapse_colors, draw_labels, ax=ax, legend=legend
        )


def _build_once(build: Callable[..., None]) -> Callable[..., None]:
    """``build`` that does nothing when the wiring is built for this width already."""

    @functools.wraps(build)
    def build_once(self: Wiring, input_dim: int) -> None:
        if self._is_built_for(input_dim):
            return
        try:
            build(self, int(input_dim))
        except BaseException:
            self._forget_inputs()  # half a wiring must not pass for a built one
            raise

    return build_once


def _equal(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other)


def _as_list(host: np.ndarray | None) -> list | None:
    return None if host is None else host.tolist()
