"""The native module; written by tools/extension_stub.py."""

from collections.abc import Sequence
from typing import Annotated

import mlx.core
import numpy
from numpy.typing import NDArray


class SynapseLists:
    """The non-zero entries of a wiring's masks."""

    def __init__(self, source: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], target: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], sensory_source: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], sensory_target: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], inputs: int, units: int) -> None: ...

def ltc_sequence(x: mlx.core.array, v0: mlx.core.array, ts: mlx.core.array, folded: Sequence[mlx.core.array], *, unfolds: int, synapses: SynapseLists | None = None, memory: Sequence[mlx.core.array] | None = None, resets: Sequence[mlx.core.array] | None = None, save: bool = True, stream: mlx.core.Stream | mlx.core.ThreadLocalStream | mlx.core.Device | mlx.core.DeviceType | None = None) -> list[mlx.core.array] | mlx.core.array: ...

def ltc_kernel(B: int, I: int, H: int, unfolds: int, synapses: SynapseLists | None = None) -> str:
    """Which LTC kernel runs this shape: 'dense' or 'lists'."""

def cfc_sequence(x: mlx.core.array, h0: mlx.core.array, ts: mlx.core.array | None, weights: Sequence[mlx.core.array], *, layers: int, mode: str, activation: str, head_activation: str = 'tanh', merged: bool = False, memory: Sequence[mlx.core.array] | None = None, resets: Sequence[mlx.core.array] | None = None, save: bool = True, stream: mlx.core.Stream | mlx.core.ThreadLocalStream | mlx.core.Device | mlx.core.DeviceType | None = None) -> list[mlx.core.array] | mlx.core.array: ...

def has_values(a: object | None) -> bool:
    """Whether an object is an evaluated, row-contiguous float32 array."""

def lies_plain(a: mlx.core.array) -> bool:
    """Whether an array is evaluated and row-contiguous."""

def may_lack_values(a: object | None) -> bool:
    """Whether an object is an array that may depend on one without a value."""

def is_tracer(a: mlx.core.array) -> bool: ...

def is_tracing() -> bool:
    """
    Whether mx.compile, a gradient or mx.vmap traces a function in this thread.
    """

def is_pending(a: mlx.core.array) -> bool:
    """Whether MLX computes an array now."""

STEP: int = 0

EVERY: int = 1

LAST: int = 2

BATCH: int = 3

def ltc_step_work(inputs: int, units: int, unfolds: int, memory: bool) -> int: ...

def cfc_step_work(inputs: int, units: int, backbone: Sequence[int], pure: bool, memory: bool) -> int:
    """The work of a row and step of a packed cell."""

def left_to_graph(B: int, T: int, work: int, beside_gpu: bool) -> str:
    """
    Why a call of so much work for each row and step is not computed at once, or nothing.
    """

def fits(x: mlx.core.array, form: int, work: int, beside_gpu: bool) -> bool:
    """
    Whether inputs lie in this form and are not too much, at so much work for each row and step.
    """

def linear(x: object, weight: object, bias: object | None) -> object:
    """
    A linear map computed at once, or None where something has no values yet.
    """

def decline_steps(on: bool) -> None: ...

class Places:
    """What a cell and its LSTM are made of now."""

    def __init__(self, cell: object, memory: object | None) -> None: ...

    @property
    def complete(self) -> bool:
        """Whether the cell is not made of too much."""

class Readout:
    def __init__(self, first: int, count: int, w: mlx.core.array | None = None, b: mlx.core.array | None = None) -> None: ...

class CfcStage:
    def __init__(self, weights: Sequence[mlx.core.array], *, inputs: int, layers: int, mode: str, activation: str, head_activation: str) -> None: ...

def cfc_at_once(x: object, h0: object, ts: object, stage: CfcStage, no_gpu: bool) -> object:
    """
    (states, last state) of a short sequence, or None: a graph must compute it.
    """

class StepCell:
    """A cell for streams of single steps."""

    @staticmethod
    def ltc(folded: Sequence[mlx.core.array], unfolds: int, synapses: SynapseLists | None, memory: Sequence[mlx.core.array], readout: Readout, parameters: Sequence[mlx.core.array]) -> StepCell: ...

    @staticmethod
    def cfc(chain: Sequence[CfcStage], memory: Sequence[mlx.core.array], readout: Readout, parameters: Sequence[mlx.core.array]) -> StepCell: ...

    @property
    def work(self) -> int: ...

    def made_from(self, parameters: list) -> bool: ...

    def watch(self, places: Places) -> None: ...

    def __call__(self, cell: object, memory: object | None, x: object | None, state: object | None, ts: object | None, form: int, no_gpu: bool = False) -> object:
        """
        (output, state) of one step; None: a graph must compute it; True: unless there is no GPU; False: the parameters have changed.
        """

def mappable(outputs: Sequence[mlx.core.array]) -> list[mlx.core.array]:
    """The outputs of a launch of a GPU kernel, which mx.vmap can map."""

def metallib_available() -> bool: ...

def metallib_max_threads(function: str) -> int: ...

def metallib_kernel(function: str, inputs: Sequence[mlx.core.array], output_shapes: Sequence[Sequence[int]], grid: tuple[int, int, int], threadgroup: tuple[int, int, int], stream: mlx.core.Stream | mlx.core.ThreadLocalStream | mlx.core.Device | mlx.core.DeviceType | None = None) -> list[mlx.core.array]:
    """Runs a function of the metallib; outputs are float32."""

def in_shapeless_trace() -> bool:
    """Whether mx.compile(shapeless=True) traces on this thread."""

def num_threads() -> int: ...

def set_num_threads(n: int) -> None: ...

def isa() -> str:
    """The instruction set of the kernels."""

def isas() -> list[str]: ...

def set_isa(name: str) -> None: ...

def vector_limit(kind: str) -> float:
    """
    Measured 'sigmoid' gates or 'fma' multiply-adds per second, all threads.
    """

def maths(function: str, slope: bool, z: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> mlx.core.array:
    """A function of the kernels, or its slope (for tests)."""

activations: tuple = ...

cfc_modes: tuple = ('default', 'no_gate', 'pure')

max_cfc_layers: int = 15

def poison_outputs(on: bool) -> None:
    """Fill outputs with NaN before kernels write them (for tests)."""

class Seen:
    """Arrays as they are now, to tell later whether one was edited."""

    def __init__(self, arrays: Sequence[mlx.core.array]) -> None: ...

    def are(self, arrays: Sequence[mlx.core.array]) -> bool: ...

def array_type() -> object:
    """mx.array where nanobind's types are those of MLX, else None."""
