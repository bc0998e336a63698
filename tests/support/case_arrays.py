"""The arrays of a case of cases.py: random inputs, state, timespans, parameters and cotangents.

Every array is drawn in float64 and rounded to the dtype of the case, in float32 storage: a backend
of any dtype and the ground truth read the same numbers. The seed is the case itself.
"""

import zlib
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from mlx_ncps.ops import numpy as truth


@dataclass(frozen=True)
class Call:
    """The arguments of an op, ``op(*call.arguments, **call.keywords)``, and its cotangents."""

    inputs: np.ndarray  # [B, T, I]
    state: np.ndarray  # [B, H]
    ts: Any  # None, a number, [T] or [B, T]
    params: Any  # LTCParams or CfCParams of mlx_ncps.ops.numpy, float32 leaves
    cotangents: np.ndarray  # [B, T, H]
    keywords: dict = field(default_factory=dict)

    @property
    def arguments(self):
        """The positional arguments."""
        return self.inputs, self.state, self.ts, self.params


def make_ltc(case):
    """The Call of an LtcCase; parameters around ncps' initial ranges, below 0 before a softplus."""
    rng = _rng(case)
    recurrent, sensory = (case.units, case.units), (case.inputs, case.units)
    mask, sensory_mask = _ltc_masks(case, rng)
    low = -2.0 if case.implicit else 0.001

    def synapses(shape):
        w, sigma, mu = (rng.uniform(*limits, shape) for limits in ((low, 1.0), (3, 8), (0.3, 0.8)))
        return w, sigma, mu, rng.choice([-1.0, 1.0], shape) * rng.uniform(0.5, 1.5, shape)

    params = truth.LTCParams(
        rng.uniform(low, 1.0, case.units),
        rng.uniform(-0.2, 0.2, case.units),
        rng.uniform(-0.5 if case.implicit else 0.4, 0.6, case.units),
        *synapses(recurrent),
        *synapses(sensory),
        mask,
        sensory_mask,
        rng.uniform(0.5, 1.5, case.inputs) if case.mapped else None,
        rng.normal(0.0, 0.3, case.inputs) if case.mapped else None,
    )
    keywords = {"ode_unfolds": case.unfolds, "implicit_param_constraints": case.implicit}
    keywords |= {"ode_solver": case.solver} if case.solver else {}
    return _call(case, rng, params, keywords)


def make_cfc(case):
    """The Call of a CfcCase; Xavier weights, and nothing at the 0 or 1 where ncps starts it."""
    rng = _rng(case)
    width = case.inputs + case.units

    def layer(rows, columns, density=1.0):
        bound = np.sqrt(6.0 / (rows + columns))
        mask = rng.uniform(size=(rows, columns)) < density
        return rng.uniform(-bound, bound, (rows, columns)) * mask, rng.normal(0.0, 0.2, rows)

    backbone = []
    for _ in range(case.layers):
        backbone.append(layer(case.backbone_units, width))
        width = case.backbone_units
    pure = case.mode == "pure"
    densities = (case.density,) if pure else (case.density, case.density, 1.0, 1.0)
    heads = [layer(case.units, width, density) for density in densities]
    w_tau = rng.normal(0.0, 0.5, case.units) if pure else None
    A = rng.normal(1.0, 0.2, case.units) if pure else None
    params = truth.CfCParams(tuple(backbone), *(heads + [None] * 3)[:4], w_tau, A)
    keywords = {"mode": case.mode, "activation": case.activation, "variant": case.variant}
    if case.dropout:
        keywords["dropout"] = _factors(case)
    return _call(case, rng, params, keywords)


def _factors(case):
    """Of dropout, [B, T, D]: 0 or what keeps the mean."""
    rng = np.random.default_rng(zlib.crc32(str(case).encode()))
    dropped = case.layers - (case.variant == "torch")
    shape = case.batch, case.steps, max(dropped, 0) * case.backbone_units
    return ((rng.uniform(size=shape) >= case.dropout) / (1 - case.dropout)).astype(np.float32)


def _call(case, rng, params, keywords):
    def rounded(tree):
        return _map(lambda array: round_to(array, case.dtype), tree)

    return Call(
        rounded(rng.normal(size=(case.batch, case.steps, case.inputs))),
        rounded(rng.normal(0.0, 0.5, (case.batch, case.units))),
        _timespans(case, rng),
        rounded(params),
        rounded(rng.normal(size=(case.batch, case.steps, case.units))),
        keywords,
    )


def _timespans(case, rng):
    shape = (case.steps,) if case.timespans == "per_step" else (case.batch, case.steps)
    ts = rng.uniform(0.05, 2.0, shape).astype(np.float64 if case.dtype == "float64" else np.float32)
    if case.timespans == "zero":
        ts[rng.uniform(size=shape) < 0.5] = 0.0
    return {"none": None, "scalar": 0.625}.get(case.timespans, ts)


def _ltc_masks(case, rng):
    if case.wiring:
        wiring = build_wiring(case)
        return tuple(
            np.abs(np.asarray(matrix, dtype=np.float64))
            for matrix in (wiring.adjacency_matrix, wiring.sensory_adjacency_matrix)
        )
    if case.density == 1.0:
        return None, None
    shapes = (case.units, case.units), (case.inputs, case.units)
    return tuple((rng.uniform(size=shape) < case.density).astype(np.float64) for shape in shapes)


def build_wiring(case):
    """The built wiring of a case: ("AutoNCP", 64, 8) stands for mlx_ncps.wirings.AutoNCP(64, 8)."""
    from mlx_ncps import wirings

    name, *arguments = case.wiring
    wiring = getattr(wirings, name)(*arguments)
    wiring.build(case.inputs)
    return wiring


def _rng(case):
    return np.random.default_rng(zlib.crc32(repr(replace(case, dtype="")).encode()))


def round_to(array, dtype):
    """``array`` rounded to ``dtype``, to nearest even, in float32 (float64 stays float64)."""
    if dtype == "float64":
        return np.asarray(array, dtype=np.float64)
    array = np.asarray(array, dtype=np.float32)
    if dtype == "float16":
        return array.astype(np.float16).astype(np.float32)
    if dtype == "bfloat16":
        bits = np.ascontiguousarray(array).view(np.uint32)
        bits = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        return (bits & np.uint32(0xFFFF0000)).view(np.float32)
    return array


def _map(function, tree):
    """``function`` of every array in nested (named) tuples; None stays."""
    if tree is None or isinstance(tree, (int, float)):
        return tree
    if not isinstance(tree, tuple):
        return function(tree)
    leaves = (_map(function, leaf) for leaf in tree)
    return type(tree)(*leaves) if hasattr(tree, "_fields") else tuple(leaves)


def to_mlx(call, dtype="float32"):
    """The same Call for mlx_ncps.ops: mx.arrays of ``dtype``, but for ts, which stay float32."""
    import mlx.core as mx
    from mlx_ncps import ops

    def convert(tree):
        return _map(lambda array: mx.array(array).astype(getattr(mx, dtype)), tree)

    params = getattr(ops, type(call.params).__name__)(*convert(tuple(call.params)))
    ts = mx.array(call.ts) if isinstance(call.ts, np.ndarray) else call.ts
    return Call(
        *map(convert, (call.inputs, call.state)),
        ts,
        params,
        convert(call.cotangents),
        {k: mx.array(v) if isinstance(v, np.ndarray) else v for k, v in call.keywords.items()},
    )


def named_leaves(tree, name="params"):
    """Nested (named) tuples of arrays as {"params.ff1.0": array, ...}; a None has no entry."""
    if tree is None:
        return {}
    if not isinstance(tree, tuple | list):
        return {name: tree}
    fields = getattr(tree, "_fields", range(len(tree)))
    leaves = {}
    for key, leaf in zip(fields, tree, strict=True):
        leaves |= named_leaves(leaf, f"{name}.{key}")
    return leaves
