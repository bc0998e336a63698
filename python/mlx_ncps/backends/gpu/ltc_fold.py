"""An LTC's parameters in the form that its kernels read (MATHS 6): what ..fold makes of them in
some twenty small operations, and MLX's gradient of these in many more, in a launch each.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from ..fold import FoldedLTC

if TYPE_CHECKING:
    from ...ops.params import LTCParams
    from .runner import Runner


def fold(run: Runner, params: LTCParams, implicit: bool, epsilon: float) -> FoldedLTC:
    """As `fold_ltc`. Masks and maps that are missing become what changes nothing."""
    given = [getattr(params, name) for name in _PARAMS]
    inputs = params.sensory_w.shape[:1]
    missing = (1.0, params.w.shape), (1.0, params.sensory_w.shape), (1.0, inputs), (0.0, inputs)
    for at, (value, shape) in zip(range(-4, 0), missing, strict=True):
        if given[at] is None:
            given[at] = mx.full(shape, value)
    return FoldedLTC(*_operator(run, bool(implicit), float(epsilon))(*given))


def _operator(run: Runner, implicit: bool, epsilon: float) -> Callable[..., Any]:
    """The operator (the fields of LTCParams) -> the fields of FoldedLTC; made once."""
    key = "ltc_fold", implicit, epsilon
    if key in run.operators:
        return run.operators[key]
    flags = {"IMPLICIT": implicit}

    def forward(*primals):
        inputs = _named(primals)
        I, H = inputs["sensory_w"].shape
        sensory = [name for name in _FOLDED if name.startswith("sensory_folded")]
        shapes = dict.fromkeys(_FOLDED[:3], (H,)) | dict.fromkeys(_FOLDED[3:7], (H, H))
        return run(
            "ltc_fold_forward",
            run.geometry.neurons(H, H + I + 1),
            (I, H),
            inputs | {"epsilon": mx.array([epsilon], mx.float32)},
            shapes | dict.fromkeys(sensory, (I, H)),
            flags=flags,
        ).values()

    def backward(primals, cotangents, outputs):
        inputs = _named(primals)
        I, H = inputs["sensory_w"].shape
        ends = [*itertools.accumulate(array.size for array in primals)]
        given = zip((f"d_{name}" for name in _FOLDED), cotangents, strict=True)
        out = run(
            "ltc_fold_backward",
            run.geometry.rows(H + I + 1),
            (I, H),
            inputs | dict(given),
            {"gradients": (ends[-1],)},
            flags=flags,
        )
        flat = mx.split(out["gradients"], ends[:-1])
        return [g.reshape(array.shape) for g, array in zip(flat, primals, strict=True)]

    return run.operators.setdefault(key, run.operator(forward, backward))


# Of LTCParams and FoldedLTC, in their order, as the kernels name them
_PARAMS = ("gleak", "vleak", "cm", "w", "sigma", "mu", "erev")
_PARAMS += tuple(f"sensory_{name}" for name in _PARAMS[3:])
_PARAMS += ("mask", "sensory_mask", "input_w", "input_b")
_FOLDED = ("folded_cm", "leak_num", "leak_den")
_FOLDED += tuple(
    f"{prefix}folded_{name}" for prefix in ("", "sensory_") for name in ("s2", "m2", "w", "we")
)


def _named(primals: Any) -> dict[str, mx.array]:
    return dict(zip(_PARAMS, primals, strict=True))
