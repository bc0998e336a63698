"""One step of a layer as plain NumPy arrays, which every file for another runtime is made of."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Map(NamedTuple):
    """A linear map z W^T + b."""

    weight: np.ndarray  # [out, in]
    bias: np.ndarray  # [out]


class Synapses(NamedTuple):
    """The synapses into H neurons, by target: those of target j are first[j] to first[j + 1].

    A synapse's gate is g = sigmoid(slope v + offset), v its source; it adds current g to the
    numerator and conductance g to the denominator of its target (MATHS 3 and 6).
    """

    first: np.ndarray  # [H + 1]
    source: np.ndarray  # [E]
    slope: np.ndarray  # [E]
    offset: np.ndarray  # [E]
    conductance: np.ndarray  # [E]
    current: np.ndarray  # [E]


class CfCStage(NamedTuple):
    """A CfC (MATHS 1), masks multiplied in; the gate is sigmoid(time_a ts + time_b)."""

    inputs: int
    units: int
    mode: str  # "default", "no_gate" or "pure"
    activation: str  # of the backbone
    head_activation: str  # of ff1 and ff2
    backbone: tuple[Map, ...]
    ff1: Map
    ff2: Map | None = None
    time_a: Map | None = None
    time_b: Map | None = None
    w_tau: np.ndarray | None = None  # [H]
    A: np.ndarray | None = None  # [H]


class LTCStage(NamedTuple):
    """An LTC (MATHS 3); constraints, masks and the map of the inputs are in the synapses."""

    inputs: int
    units: int
    activation: str  # of the backbone
    backbone: tuple[Map, ...]
    unfolds: int
    epsilon: float
    solver: str  # "semi_implicit", "explicit" or "runge_kutta"
    cm: np.ndarray  # [H]
    leak_current: np.ndarray  # [H]
    leak: np.ndarray  # [H]
    sensory: Synapses
    recurrent: Synapses


class Memory(NamedTuple):
    """The LSTM of mixed memory (MATHS 4): 4H rows i, ig, fg, og."""

    input_weight: np.ndarray  # [4H, I]
    bias: np.ndarray  # [4H]
    recurrent_weight: np.ndarray  # [4H, H]
    feeds_inputs: bool  # its output is what the cell reads, as in ncps.keras; else the cell's state


class Readout(NamedTuple):
    """The outputs: `width` neurons from number `first` on, times scale, plus shift, then a map."""

    first: int
    width: int
    scale: np.ndarray | None  # [width]
    shift: np.ndarray | None  # [width]
    projection: Map | None


class LayerStep(NamedTuple):
    """One layer: stages that each read the one before, an LSTM in front or None, the readout."""

    inputs: int
    states: tuple[str, ...]  # "h" alone, or "h" and "c" of mixed memory, in the layer's order
    memory: Memory | None
    stages: tuple[Any, ...]  # of CfCStage, or one LTCStage
    readout: Readout

    @property
    def units(self) -> int:
        """Neurons, H."""
        return sum(stage.units for stage in self.stages)

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        readout = self.readout
        return readout.width if readout.projection is None else len(readout.projection.bias)


class Model(NamedTuple):
    """Layers, each of which reads the outputs of the one below."""

    layers: tuple[LayerStep, ...]

    @property
    def inputs(self) -> int:
        """Number of inputs."""
        return self.layers[0].inputs

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        return self.layers[-1].outputs

    @property
    def states(self) -> list[tuple[str, int]]:
        """(name, size) of each array of the state: h, or h0, h1, ... of several layers."""
        many = len(self.layers) > 1
        return [
            (f"{name}{n}" if many else name, layer.units)
            for n, layer in enumerate(self.layers)
            for name in layer.states
        ]


def arrays_of(part: Any) -> list[np.ndarray]:
    """Every array of a description or a part of one."""
    if isinstance(part, np.ndarray):
        return [part]
    if isinstance(part, tuple):
        return [array for item in part for array in arrays_of(item)]
    return []
