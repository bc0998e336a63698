"""Parameters of an LTC to fold, and what a fold makes of them with every gradient."""

import mlx.core as mx
import numpy as np
from mlx_ncps.backends.fold import FoldedLTC
from mlx_ncps.ops import LTCParams

OPTIONAL = ("mask", "sensory_mask", "input_w", "input_b")


def drawn(inputs, units, present=OPTIONAL, seed=0):
    """LTCParams of normal numbers, of which the masks have zeros."""
    rng = np.random.default_rng(seed)
    params = {}
    for name in LTCParams._fields:
        rows = inputs if "sensory" in name else units
        shape = (units,) if name in ("gleak", "vleak", "cm") else (rows, units)
        shape = (inputs,) if name.startswith("input") else shape
        values = 3 * rng.normal(size=shape)
        params[name] = mx.array((values * (values > -1) if "mask" in name else values).astype("f"))
    return LTCParams(**{n: a for n, a in params.items() if n not in OPTIONAL or n in present})


def fold_and_gradients(fold, params, implicit):
    """{"folded name": array, "d name": gradient of every parameter that there is}."""
    names = [n for n, a in zip(params._fields, params, strict=True) if a is not None]
    given = [getattr(params, n) for n in names]
    key = mx.random.key(1)

    def folded(*arrays):
        return list(fold(params._replace(**dict(zip(names, arrays, strict=True))), implicit, 1e-3))

    cotangents = [mx.random.normal(a.shape, key=key) for a in folded(*given)]
    out, gradients = mx.vjp(folded, given, cotangents)
    done = dict(zip(FoldedLTC._fields, out, strict=True))
    return done | {f"d {n}": g for n, g in zip(names, gradients, strict=True)}
