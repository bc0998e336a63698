"""Checks of shapes, dtypes and options before any work, with errors that name the op, what was
wanted and what came. No backend has to check again.
"""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx

from .. import limits
from ..backends.activations import MODES, VARIANTS
from ..checks import FLOATS as DTYPES
from ..checks import brief, choice, flag, is_array, kind_of
from ..options import number, one_of, unfolds
from .activations import ACTIVATIONS, get_activation
from .params import CfCParams, LTCParams
from .synapses import SynapseLists

SOLVERS = ("semi_implicit", "explicit", "runge_kutta")


def check_array(
    op: str, name: str, x: Any, symbols: str, shape: tuple, dtypes: tuple = DTYPES
) -> None:
    """`x` is an mx.array of `shape`, written as `symbols`, where None stands for any size."""
    try:
        if isinstance(x, mx.array) and x.dtype in (dtypes or (x.dtype,)):
            got = x.shape
            free = None in shape and len(got) == len(shape)
            if got == shape or (free and _same(got, shape)):
                return  # nearly always
    except TypeError:  # never initialised: the next lines say so
        pass
    if not is_array(x):
        got = brief(x) if isinstance(x, mx.array) else kind_of(x)
        raise ValueError(f"[{op}] {name} must be an mx.array, got {got}.")
    if x.ndim != len(shape) or not _same(x.shape, shape):
        wanted = symbols if None in shape else f"{symbols} = {shape}"
        raise ValueError(f"[{op}] {name} must be {wanted}, got {x.shape}.")
    if dtypes and x.dtype not in dtypes:
        raise ValueError(
            f"[{op}] {name} must be float32, float16 or bfloat16, got {dtype_name(x)}."
        )


def _same(shape: tuple, wanted: tuple) -> bool:
    """Whether sizes are those wanted, where None stands for any."""
    return all(n in (None, m) for n, m in zip(wanted, shape, strict=True))


def dtype_name(x: mx.array) -> str:
    """float32 and not mlx.core.float32."""
    return str(x.dtype).removeprefix("mlx.core.")


def check_params(op: str, name: str, params: Any, kind: type) -> None:
    """`params` is of the named tuple `kind`, or of another one with its fields."""
    if getattr(params, "_fields", None) != kind._fields:
        raise ValueError(f"[{op}] {name} must be {kind.__name__}, got {type(params).__name__}.")


def check_ltc(
    inputs: Any, state: Any, params: Any, synapses: Any = None
) -> tuple[int, int, int, int]:
    """Every array of an LTC call, and its synapse lists; returns B, T, I, H."""
    op = "ltc"
    check_params(op, "params", params, LTCParams)
    sizes = _ltc_sizes(inputs, state, params) or _check_ltc_arrays(op, inputs, state, params)
    check_synapses(synapses, params)
    return sizes


def _check_ltc_arrays(op: str, inputs: Any, state: Any, params: Any) -> tuple[int, int, int, int]:
    check_array(op, "inputs", inputs, "[B, T, I]", (None, None, None))
    check_array(op, "params.gleak", params.gleak, "[H]", (None,))
    (B, T, I), H = inputs.shape, params.gleak.shape[0]
    check_array(op, "state", state, "[B, H]", (B, H))
    check_ltc_params(params, I, H)
    return B, T, I, H


def check_ltc_params(params: Any, I: int, H: int) -> None:
    """Every parameter of an LTC of I inputs and H neurons."""
    if _ltc_params_fit(params, I, H):
        return
    op = "ltc"
    for name in ("gleak", "vleak", "cm"):
        check_array(op, f"params.{name}", getattr(params, name), "[H]", (H,))
    for name in ("w", "sigma", "mu", "erev"):
        check_array(op, f"params.{name}", getattr(params, name), "[H, H]", (H, H))
        sensory = getattr(params, f"sensory_{name}")
        check_array(op, f"params.sensory_{name}", sensory, "[I, H]", (I, H))
    for name, symbols, shape in (
        ("mask", "[H, H]", (H, H)),
        ("sensory_mask", "[I, H]", (I, H)),
        ("input_w", "[I]", (I,)),
        ("input_b", "[I]", (I,)),
    ):
        leaf = getattr(params, name)
        if leaf is not None:
            check_array(
                op, f"params.{name}", leaf, symbols, shape, () if "mask" in name else DTYPES
            )


def _ltc_sizes(inputs: Any, state: Any, params: Any) -> tuple | None:
    """As `_cfc_sizes`."""
    try:
        (B, T, I), (H,) = inputs.shape, params.gleak.shape
        fits = _fit([(inputs, (B, T, I)), (state, (B, H))]) and _ltc_params_fit(params, I, H)
    except (TypeError, ValueError, AttributeError):
        return None
    return (B, T, I, H) if fits else None


def _ltc_params_fit(params: Any, I: int, H: int) -> bool:
    """As `_cfc_params_fit`; of the masks any dtype fits."""
    shapes = ((H,),) * 3 + ((H, H),) * 4 + ((I, H),) * 4
    try:
        *leaves, mask, sensory_mask, input_w, input_b = params
        arrays = [*zip(leaves, shapes, strict=True), (input_w, (I,)), (input_b, (I,))]
        masks = [(m, s) for m, s in ((mask, (H, H)), (sensory_mask, (I, H))) if m is not None]
        return _fit(masks, ()) and _fit(arrays[:11] + [a for a in arrays[11:] if a[0] is not None])
    except (TypeError, ValueError, AttributeError):
        return False


LTC_OPTIONS = {  # of a call, and of a cell
    "ode_unfolds": unfolds,
    "epsilon": number,
    "implicit_param_constraints": flag,
    "ode_solver": one_of(*SOLVERS),
}


def check_ltc_options(
    *, ode_unfolds: Any, epsilon: Any, implicit_param_constraints: Any, ode_solver: Any
) -> dict:
    """The options of an LTC call, LTC_OPTIONS, as backends read them."""
    given = {
        "ode_unfolds": ode_unfolds,
        "epsilon": epsilon,
        "implicit_param_constraints": implicit_param_constraints,
        "ode_solver": ode_solver,
    }
    if (
        type(ode_unfolds) is int
        and 1 <= ode_unfolds <= limits.MAX_UNFOLDS
        and type(epsilon) is float
        and 0 <= epsilon < math.inf
        and type(implicit_param_constraints) is bool
        and type(ode_solver) is str
        and ode_solver in SOLVERS
    ):
        return given  # nearly always
    return {name: check("ltc", name, given[name]) for name, check in LTC_OPTIONS.items()}


def check_synapses(synapses: Any, params: Any) -> None:
    """The lists of an LTC call fit its masks in number; what they list is not compared."""
    if synapses is None:
        return
    if not isinstance(synapses, SynapseLists):
        raise ValueError(
            f"[ltc] synapses must be a SynapseLists or None, got {type(synapses).__name__}."
        )
    if params.mask is None or params.sensory_mask is None:
        raise ValueError("[ltc] synapses need params.mask and params.sensory_mask, got None.")
    inputs, units = params.sensory_mask.shape
    if (synapses.inputs, synapses.units) != (inputs, units):
        raise ValueError(
            f"[ltc] synapses must be those of {inputs} inputs and {units} units, "
            f"got {synapses.inputs} inputs and {synapses.units} units."
        )


def check_cfc(
    inputs: Any, state: Any, params: Any, mode: str, activation: str, variant: str
) -> tuple[int, int, int, int]:
    """Every array and option of a CfC call; returns B, T, I, H. Leaves that the mode doesn't use
    are not read.
    """
    op, options = "cfc", ((mode, MODES), (variant, VARIANTS), (activation, ACTIVATIONS))
    check_params(op, "params", params, CfCParams)
    if sizes := _cfc_sizes(inputs, state, params, options):
        return sizes
    check_mode(mode)
    check_variant(variant)
    get_activation(activation)
    check_array(op, "inputs", inputs, "[B, T, I]", (None, None, None))
    if not isinstance(params.backbone, tuple | list):
        raise ValueError(
            f"[{op}] params.backbone must be a tuple of layers, got {brief(params.backbone)}."
        )
    _check_pair(op, "params.ff1", params.ff1)
    check_array(op, "params.ff1[0]", params.ff1[0], "[H, K]", (None, None))
    (B, T, I), H = inputs.shape, params.ff1[0].shape[0]
    check_array(op, "state", state, "[B, H]", (B, H))
    check_cfc_params(params, mode, I, H)
    return B, T, I, H


CFC_HEADS = ("ff1", "ff2", "time_a", "time_b")  # of every mode but pure, which has ff1


def check_cfc_params(params: Any, mode: str, I: int, H: int) -> None:
    """Every parameter that a CfC of I inputs and H neurons reads in this mode."""
    if _cfc_params_fit(params, mode, I + H, H):
        return
    op, width = "cfc", I + H
    for n, layer in enumerate(params.backbone):
        width = _check_layer(op, f"params.backbone[{n}]", layer, "K", None, width)
    for name in CFC_HEADS[:1] if mode == "pure" else CFC_HEADS:
        _check_layer(op, f"params.{name}", getattr(params, name), "H", H, width)
    for name in ("w_tau", "A") if mode == "pure" else ():
        check_array(op, f"params.{name}", getattr(params, name), "[H]", (H,))


def _cfc_sizes(inputs: Any, state: Any, params: Any, options: tuple) -> tuple | None:
    """B, T, I, H where all is as it should be, which it nearly always is; None: the errors' code
    says what isn't. options: pairs (value, among), the mode first.
    """
    if not all(isinstance(value, str) and value in among for value, among in options):
        return None
    try:
        (B, T, I), H = inputs.shape, params.ff1[0].shape[0]
        fits = _cfc_params_fit(params, options[0][0], I + H, H)
        fits = fits and _fit([(inputs, (B, T, I)), (state, (B, H))])
    except (TypeError, ValueError, AttributeError, IndexError):
        return None
    return (B, T, I, H) if fits else None


def _cfc_params_fit(params: Any, mode: str, width: int, H: int) -> bool:
    """Whether all is as it should be, which it nearly always is, in one look."""
    try:
        arrays = []  # (array, the shape that it must have)
        for weight, bias in params.backbone:
            rows = weight.shape[0]
            arrays += [(weight, (rows, width)), (bias, (rows,))]
            width = rows
        for weight, bias in (params.ff1,) if mode == "pure" else params[1:5]:
            arrays += [(weight, (H, width)), (bias, (H,))]
        if mode == "pure":
            arrays += [(params.w_tau, (H,)), (params.A, (H,))]
        return _fit(arrays)
    except (TypeError, ValueError, AttributeError, IndexError):
        return False


def _fit(arrays: list, dtypes: tuple = DTYPES) -> bool:
    """Whether each is an mx.array of its shape, and of a dtype among `dtypes` if there are any."""
    for array, shape in arrays:
        if not isinstance(array, mx.array) or array.shape != shape:
            return False
        if dtypes and array.dtype not in dtypes:
            return False
    return True


def check_memory(op: str, memory: Any, I: int | None, H: int) -> None:
    """Every parameter of the LSTM of I inputs in front of a cell of H neurons."""
    check_array(op, "memory.input_weight", memory.input_weight, "[4H, I]", (4 * H, I))
    check_array(op, "memory.bias", memory.bias, "[4H]", (4 * H,))
    weight = memory.recurrent_weight
    check_array(op, "memory.recurrent_weight", weight, "[4H, H]", (4 * H, H))


def check_mode(mode: str, modes: tuple[str, ...] = MODES) -> None:
    """`mode` is one of `modes`."""
    choice("cfc", "mode", mode, modes)


def check_variant(variant: str) -> None:
    """`variant` is one of the three."""
    choice("cfc", "variant", variant, VARIANTS)


def _check_pair(op: str, name: str, layer: Any) -> None:
    if not isinstance(layer, tuple | list) or len(layer) != 2:
        raise ValueError(
            f"[{op}] {name} must be a pair (weight, bias), got {type(layer).__name__}."
        )


def _check_layer(
    op: str, name: str, layer: Any, symbol: str, rows: int | None, columns: int
) -> int:
    """A pair weight [rows, columns], bias [rows]; returns its rows."""
    _check_pair(op, name, layer)
    weight, bias = layer
    if rows is None:
        check_array(op, f"{name}[0]", weight, f"[{symbol}, N]", (None, None))
        rows = int(weight.shape[0])
    check_array(op, f"{name}[0]", weight, f"[{symbol}, N]", (rows, columns))
    check_array(op, f"{name}[1]", bias, f"[{symbol}]", (rows,))
    return rows
