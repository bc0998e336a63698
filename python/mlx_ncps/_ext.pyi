"""The native module; written by tools/extension_stub.py."""

from collections.abc import Sequence
from typing import Annotated

import mlx.core
import numpy
from numpy.typing import NDArray


class SynapseLists:
    """The non-zero entries of a wiring's masks."""

    def __init__(self, source: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], target: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], sensory_source: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], sensory_target: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], inputs: int, units: int) -> None: ...

def ltc_sequence(x: mlx.core.array, v0: mlx.core.array, ts: mlx.core.array, folded: Sequence[mlx.core.array], *, unfolds: int, solver: str = 'semi_implicit', synapses: SynapseLists | None = None, memory: Sequence[mlx.core.array] | None = None, resets: Sequence[mlx.core.array] | None = None, save: bool = True, stream: mlx.core.Stream | mlx.core.ThreadLocalStream | mlx.core.Device | mlx.core.DeviceType | None = None) -> list[mlx.core.array] | mlx.core.array: ...

def ltc_kernel(B: int, I: int, H: int, unfolds: int, synapses: SynapseLists | None = None, solver: str = 'semi_implicit') -> str:
    """Which LTC kernel runs this shape: 'dense' or 'lists'."""

def synapse_lists_made() -> int:
    """How many lists of synapses were made so far."""

def cfc_sequence(x: mlx.core.array, h0: mlx.core.array, ts: mlx.core.array | None, weights: Sequence[mlx.core.array], *, layers: int, mode: str, activation: str, head_activation: str = 'tanh', merged: bool = False, memory: Sequence[mlx.core.array] | None = None, dropout: mlx.core.array | None = None, first_dropped: int = 0, resets: Sequence[mlx.core.array] | None = None, save: bool = True, stream: mlx.core.Stream | mlx.core.ThreadLocalStream | mlx.core.Device | mlx.core.DeviceType | None = None) -> list[mlx.core.array] | mlx.core.array: ...

def dropout_factors(key: mlx.core.array, shape: Sequence[int], rate: float, stream: mlx.core.Stream | mlx.core.ThreadLocalStream | mlx.core.Device | mlx.core.DeviceType | None = None) -> mlx.core.array:
    """
    float32 [shape]: 0 with probability `rate`, else 1 / (1 - rate), from bits of an mx.random.key.
    """

def fold_ltc(weights: Sequence[mlx.core.array], *, mask: mlx.core.array | None = None, sensory_mask: mlx.core.array | None = None, input_w: mlx.core.array | None = None, input_b: mlx.core.array | None = None, implicit: bool, epsilon: float, stream: mlx.core.Stream | mlx.core.ThreadLocalStream | mlx.core.Device | mlx.core.DeviceType | None = None) -> list[mlx.core.array]: ...

def products(x: Sequence[mlx.core.array], y: Sequence[mlx.core.array], stream: mlx.core.Stream | mlx.core.ThreadLocalStream | mlx.core.Device | mlx.core.DeviceType | None = None) -> list[mlx.core.array]:
    """x[i] * y[i] of float32 arrays of equal shapes, in one primitive."""

def scaled_sums(x: Sequence[mlx.core.array], y: Sequence[mlx.core.array], factor: float, stream: mlx.core.Stream | mlx.core.ThreadLocalStream | mlx.core.Device | mlx.core.DeviceType | None = None) -> list[mlx.core.array]:
    """factor * x[i] + y[i] of such arrays, each rounded by itself."""

class Rule:
    """What must hold among arrays: see csrc/guard.h."""

    def __init__(self, at: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], of: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], width: int, own: bool) -> None: ...

def guarded(a: mlx.core.array, arrays: Sequence[mlx.core.array], rules: Sequence[Rule], stream: mlx.core.Stream | mlx.core.ThreadLocalStream | mlx.core.Device | mlx.core.DeviceType | None = None) -> mlx.core.array:
    """
    `a`, float32, or NaN throughout where one of the rules doesn't hold among the arrays.
    """

class Program:
    """A step program, checked."""

    def __init__(self, *, captured: Sequence[Sequence[int]], steps: Sequence[int], states: Sequence[int], sizes: Sequence[int], varying: Sequence[bool], constants: Sequence[tuple[int, float]], once: Sequence[tuple[str, int, Sequence[int], Sequence[int]]], step: Sequence[tuple[str, int, Sequence[int], Sequence[int]]], next: Sequence[int], outputs: Sequence[int]) -> None: ...

    @property
    def work(self) -> int:
        """Of one row and step, in multiply-adds."""

def program_sequence(program: Program, steps: Sequence[mlx.core.array], states: Sequence[mlx.core.array], captured: Sequence[mlx.core.array], resets: mlx.core.array | None = None, reset_states: Sequence[mlx.core.array] | None = None, *, stream: mlx.core.Stream | mlx.core.ThreadLocalStream | mlx.core.Device | mlx.core.DeviceType | None = None) -> list[mlx.core.array]:
    """
    A step program over a sequence: its states, then its outputs, [B, T, n] each.
    """

def array_id(a: mlx.core.array) -> int:
    """A number that only handles of the same array share, while it lives."""

def has_values(a: object | None) -> bool:
    """Whether an object is an evaluated, row-contiguous float32 array."""

def lies_plain(a: mlx.core.array) -> bool:
    """Whether an array is evaluated and row-contiguous."""

def may_lack_values(a: object | None) -> bool:
    """Whether an object is an array that may depend on one without a value."""

def largest(a: mlx.core.array) -> float | None:
    """
    The largest element above 0, or 0; None of no evaluated, row-contiguous float32.
    """

def largest_rate(parameters: Sequence[mlx.core.array], implicit: bool) -> float | None:
    """
    The largest rate of an LTC's neurons, or None where its arrays must be evaluated.
    """

def is_tracer(a: mlx.core.array) -> bool: ...

def is_tracing() -> bool:
    """
    Whether mx.compile, a gradient or mx.vmap traces a function in this thread.
    """

def may_be_read(a: object | None) -> bool:
    """
    Whether an object is an array of floats with values that can be had now.
    """

def awaits_trace(a: object | None) -> bool:
    """
    Whether an object is an array without a value while a function is traced.
    """

def reshaped(a: mlx.core.array, shape: Sequence[int]) -> mlx.core.array | None:
    """The values of an evaluated array in another shape, or None."""

STEP: int = 0

EVERY: int = 1

LAST: int = 2

BATCH: int = 3

def ltc_step_work(inputs: int, units: int, unfolds: int, memory: bool, solver: str = 'semi_implicit') -> int: ...

def cfc_step_work(inputs: int, units: int, backbone: Sequence[int], pure: bool, memory: bool) -> int:
    """The work of a row and step of a packed cell."""

def left_to_graph(B: int, T: int, work: int, beside_gpu: bool) -> str:
    """
    Why a call of so much work for each row and step is not computed at once, or nothing.
    """

def fits(x: mlx.core.array, form: int, work: int, beside_gpu: bool, time_first: bool = False) -> bool:
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
    def ltc(folded: Sequence[mlx.core.array], unfolds: int, synapses: SynapseLists | None, memory: Sequence[mlx.core.array], readout: Readout, parameters: Sequence[mlx.core.array], solver: str = 'semi_implicit', longest_ts: float = float('inf')) -> StepCell: ...

    @staticmethod
    def cfc(chain: Sequence[CfcStage], memory: Sequence[mlx.core.array], readout: Readout, parameters: Sequence[mlx.core.array]) -> StepCell: ...

    @staticmethod
    def program(program: Program, captured: Sequence[mlx.core.array], readout: Readout, parameters: Sequence[mlx.core.array]) -> StepCell: ...

    @property
    def work(self) -> int: ...

    def made_from(self, parameters: list) -> bool: ...

    def watch(self, places: Places) -> None: ...

    def __call__(self, cell: object, memory: object | None, x: object | None, state: object | None, ts: object | None, form: int, no_gpu: bool = False) -> object:
        """
        (output, state) of one step; None: a graph must compute it; True: unless there is no GPU; False: the parameters have changed.
        """

    def loosely(self, cell: object, memory: object | None, x: object | None, state: object | None, ts: object | None, form: int, no_gpu: bool, mask: object | None, seen: object | None, time_first: bool) -> object:
        """
        The same of a call with a mask or of inputs [T, B, I]; with a mask of features also (their last seen values, the time since then), as `seen` takes it.
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

ltc_solvers: tuple = ('semi_implicit', 'explicit', 'runge_kutta')

max_cfc_layers: int = 15

def poison_outputs(on: bool) -> None:
    """Fill outputs with NaN before kernels write them (for tests)."""

class Seen:
    """Arrays as they are now, to tell later whether one was edited."""

    def __init__(self, arrays: Sequence[mlx.core.array]) -> None: ...

    def are(self, arrays: Sequence[mlx.core.array]) -> bool: ...

def array_type() -> object:
    """mx.array where nanobind's types are those of MLX, else None."""
