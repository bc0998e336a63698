"""CfC over a sequence step by step on a GPU, for large batches and states: MLX's matrix products,
and one kernel of metal/cfc_update_*.metal for the pointwise end of each step (MATHS 1).
_cfc_kernels.py calls it where a product of one step fills the GPU, or a row's state does not fit
threadgroup memory; MLX differentiates the products.
"""

from __future__ import annotations

import mlx.core as mx

from . import _launch, activations


def states(run, shape, xz, h, ts, stages, tail, activate, training):
    """States [B, T, H] of one call of _cfc_kernels.cfc_sequence.

    shape: its static facts.  xz [B, T, N0]: the first stage's product with the inputs, bias
    included.  h [B, H].  ts [B, T] or None.  stages: (weight [columns, depth], bias) of each stage,
    the first reading h alone.  tail: w_tau, A [H] in the mode pure.
    """
    update = _update(run, shape, training)
    first, *rest = [(weight.T, bias) for weight, bias in stages]
    found = []
    for t in range(xz.shape[1]):
        z = xz[:, t] + h @ first[0]
        for weight, bias in rest:
            z = mx.addmm(bias, activate(z), weight)
        h = update(z, *([ts[:, t]] if shape.timespans else []), *tail)[0]
        found.append(h)
    return mx.stack(found, axis=1)


def _update(run, shape, save):
    """The operator (z [B, heads H], [ts [B]], [w_tau, A]) -> h [B, H] and, with `save`, what the
    backward reads [B, heads H].
    """

    def forward(*primals, save=save):
        sizes, inputs, options = _facts(shape, primals)
        z = primals[0]
        outputs = {"h": sizes} | ({"saved": z.shape} if save else {})
        flags = {"SAVE": save, **options.pop("flags")}
        launch = _launch.neurons_by_rows(sizes[1], sizes[0])
        inputs = {"z": z, **inputs}
        stem = "cfc_update_forward"
        return run(stem, launch, sizes, inputs, outputs, flags=flags, **options).values()

    def backward(primals, cotangents, outputs):
        sizes, inputs, options = _facts(shape, primals)
        saved = outputs[1] if save else list(forward(*primals, save=True))[1]
        wanted = {"dz": primals[0].shape} | (
            {"shares": (3, *sizes)} if shape.mode == "pure" else {}
        )
        launch = _launch.neurons_by_rows(sizes[1], sizes[0])
        inputs = {"dh": cotangents[0], "saved": saved, **inputs}
        out = run("cfc_update_backward", launch, sizes, inputs, wanted, **options)
        return _gradients(shape, sizes[1], saved, out)

    return run.operator(forward, backward)


def _facts(shape, primals):
    """((B, H), inputs, options) that forward and backward share."""
    z, *rest = primals
    ts = rest.pop(0) if shape.timespans else mx.zeros(1)  # not read
    inputs = {"ts": ts, **dict(zip(("w_tau", "A"), rest, strict=False))}
    options = {"flags": {"PURE": shape.mode == "pure"}, "HEADS": shape.heads}
    options["MODE"] = activations.mode_number(shape.mode)
    options["HEAD_ACTIVATION"] = activations.number(shape.head_activation)
    return (z.shape[0], z.shape[1] // shape.heads), inputs, options


def _gradients(shape, units, saved, out):
    """The gradients of the primals: z, then ts, w_tau and A where they are."""
    gradients = [out["dz"]]
    if shape.mode == "pure":
        dw_tau, dA, dts = out["shares"]
        gradients += [dts.sum(axis=1)] if shape.timespans else []
        gradients += [dw_tau.sum(axis=0), dA.sum(axis=0)]
    elif shape.timespans:  # u = a ts + b: the head b's gradient is du
        du, a = out["dz"][:, 3 * units :], saved[:, 3 * units :]
        gradients.append((du * a).sum(axis=1))
    return gradients
