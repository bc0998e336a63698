"""Cells that follow a wiring: their own copy of it, and its masks as one truth with it."""

from __future__ import annotations

import copy
from typing import Any

import mlx.core as mx
import numpy as np

from ..checks import refused, size
from ..options import optional
from ..wirings import Wiring
from .base import LiquidCell
from .computed import DrawnCell
from .wiring_tie import WiringTie


class NCPRNNCell(DrawnCell, LiquidCell):
    """Base of the cells that follow a wiring: `wiring` is the cell's own copy, saved and never
    trained.

    A user's own cell calls `super().__init__(wiring)`, makes its weights in `build(input_shape)`
    after `super().build(input_shape)`, which builds the wiring, and reads `wiring.adjacency` and
    `wiring.sensory_adjacency` as masks.

    Example:
        >>> class Wired(NCPRNNCell):
        ...     def build(self, input_shape):
        ...         super().build(input_shape)
        ...         self.weight = mx.ones(self.wiring.adjacency.shape)
        ...     def sequence(self, inputs, state, ts):
        ...         drive = inputs @ mx.abs(self.wiring.sensory_adjacency)
        ...         return mx.cumsum(drive * ts, axis=1) + (state @ self.weight)[:, None]
        ...     def readout(self, states):
        ...         return states[..., : self.output_size]
        >>> cell = Wired(AutoNCP(8, 2))
        >>> [array.shape for array in cell(mx.ones((5, 3)), mx.zeros((5, 8)))]
        [(5, 2), (5, 8)]
    """

    _WIDTH = "in_features"  # the constructor's argument for the number of inputs

    def __init__(self, wiring: Wiring | None = None):
        super().__init__()
        if wiring is not None:
            if not isinstance(wiring, Wiring):
                raise refused(self.op, "wiring", "a Wiring or None", wiring)
            self.wiring = wiring.as_given()

    def _create(self, width: int) -> None:
        self["wiring"].build(width)
        super()._create(width)

    # --- masks and wiring as one truth: a cell with masks calls `_tie_wiring` in `_create` ---

    @property
    def wiring(self) -> Wiring:
        """The cell's own wiring. An edit of it acts at once, also on the masks, as an edit of the
        masks does on it.
        """
        if "wiring" not in self:
            raise AttributeError("wiring")
        self._sync_wiring(strict=False)
        return self["wiring"]

    @wiring.setter
    def wiring(self, value: Any) -> None:  # what is no module comes here
        self["wiring"] = value

    def synapse_weights(self, sensory: bool = False) -> mx.array:
        """The magnitude of each synapse's weight, [source, target]: what a threshold for
        `wiring.prune` may look at. Infinite where the cell reads no single synapse.
        """
        raise self._must_define("synapse_weights()")

    def _tie_wiring(self, blocks: list) -> None:
        """Keep the masks of these `mask_blocks.Block`s and the wiring one truth from now on."""
        self._tie = WiringTie(blocks)
        self._tie.start(self)

    def _sync_wiring(self, strict: bool = True, edited: bool = False) -> bool:
        """Let an edit of the wiring reach the masks, and one of the masks the wiring; False where
        they are tracers. `edited`: the user has just set the wiring.

        Raises ValueError where both were edited and disagree, unless not `strict`.
        """
        tie = self.__dict__.get("_tie")
        return tie is None or tie.sync(self, strict, edited)

    def _likely_polarities(self, matrix: str, shape: tuple) -> np.ndarray:
        """-1 or 1 [source, target]: what the synapses are that only an edited mask knows."""
        return np.ones(shape, np.int32)

    def _polarities_set(
        self, matrix: str, values: np.ndarray, where: np.ndarray, only_unset: bool = False
    ) -> None:
        """The wiring got synapses of these polarities `where` this is True, or others for old ones;
        `only_unset`: where the cell's parameters know none.
        """

    def __copy__(self) -> NCPRNNCell:
        """A shallow copy; its masks and wiring are its own."""
        twin = super().__copy__()
        tie = self.__dict__.get("_tie")
        for part in {"wiring", *(tie.parts() if tie else ())} & self.keys():
            dict.__setitem__(twin, part, copy.copy(self[part]))
        return twin

    def items(self) -> Any:
        """As a dict has it; whatever walks over the parameters sees masks and wiring agree."""
        self._sync_wiring(strict=False)
        return super().items()

    def __setitem__(self, key: str, value: Any) -> None:
        tied = "_tie" in self.__dict__  # unpickling sets it last, copying first
        if tied and key == "wiring" and key in self:
            value = self._fitting(value)
        super().__setitem__(key, value)
        if tied and (key == "wiring" or key in self._no_grad):
            self._sync_wiring(strict=False, edited=key == "wiring")

    def _fitting(self, wiring: Any) -> Wiring:
        """A copy of a wiring that is to take the place of the cell's."""
        old = self["wiring"]
        if not isinstance(wiring, Wiring) or wiring.units != old.units:
            got = wiring.units if isinstance(wiring, Wiring) else type(wiring).__name__
            raise ValueError(
                f"[{self.op}] wiring must be a Wiring of {old.units} units, got {got}."
            )
        wiring = wiring.as_given()
        wiring.build(old.input_dim)
        return wiring

    def _argument_now(self, value):
        return self.wiring.unless_drawn_by(value) if isinstance(value, Wiring) else value

    def _set_wiring(self, wiring: Any, width: int | None) -> None:
        """Keep a copy of `wiring`, and build both when the number of inputs is known."""
        width = optional(size)(self.op, self._WIDTH, width)
        self.wiring = wiring.as_given()
        width = self.wiring.input_dim if width is None else width
        if width is not None:
            self.build(width)
            wiring.build_by_layer(width)

    def state_names(self) -> Any:
        """The name of each entry of the state: type and number of its neuron in the wiring, as
        "motor_0"; in the order of these numbers.
        """
        return self._names_of(range(self.state_size))

    def _names_of(self, neurons: Any) -> list[str]:
        return [f"{self['wiring'].get_type_of_neuron(n)}_{n}" for n in neurons]

    @property
    def state_size(self) -> int:
        """Number of neurons, H."""
        return self["wiring"].units

    @property
    def units(self) -> int:
        """Number of neurons, H, as earlier MLX ports call it."""
        return self.state_size

    @property
    def sensory_size(self) -> int | None:
        """Number of inputs, I; None before the cell is built."""
        return self["wiring"].input_dim

    @property
    def output_size(self) -> int:
        """Number of outputs, O: the motor neurons."""
        outputs = self["wiring"].output_dim
        return self.state_size if outputs is None else outputs
