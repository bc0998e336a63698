"""The LTC's sums over its inputs as operators, and the gradients of any matrix of synapses, dense
or listed (MATHS 3); _ltc_kernels.py calls them.
"""

from __future__ import annotations

from . import _launch

SYNAPSE = ("synapse_s2", "synapse_m2", "synapse_w", "synapse_we")


def named(arrays) -> dict:
    """Four arrays under the names that the kernels read them by."""
    return dict(zip(SYNAPSE, arrays, strict=True))


def sensory_dense(run):
    """The operator (x [B, T, I], leak_num, leak_den [H], 4 x [I, H]) -> num, den [B, T, H]."""

    def forward(x, leak_num, leak_den, *synapses):
        (B, T, I), H = x.shape, leak_num.shape[0]
        out = run(
            "ltc_sensory_forward",
            _launch.sensory_forward(B * T, H),
            (B * T, I, H),
            {"x": x, "leak_num": leak_num, "leak_den": leak_den, **named(synapses)},
            {"num": (B, T, H), "den": (B, T, H)},
            ROWS=_launch.sensory_rows(B * T, H),
        )
        return out["num"], out["den"]

    def backward(primals, cotangents, outputs):
        x, _, _, *synapses = primals
        dnum, dden = cotangents
        dsynapses, dx = dense_gradients(run, x, dnum, dden, synapses, of_sources=True)
        return dx, dnum.sum(axis=(0, 1)), dden.sum(axis=(0, 1)), *dsynapses

    return run.operator(forward, backward)


def sensory_listed(run, lists):
    """The same operator for a sparse wiring."""

    def launch(kernel, by, rows, sizes, inputs, outputs):
        slices = by.begins.size - 1
        inputs = {**inputs, "neurons": by.neurons, "begins": by.begins}
        where, shared = _launch.list_sensory(rows, slices), _launch.sensory_rows(rows, 32 * slices)
        return run(kernel, where, (rows, *sizes, slices), inputs, outputs, ROWS=shared)

    def forward(x, leak_num, leak_den, *synapses):
        (B, T, I), H, by = x.shape, leak_num.shape[0], lists.by_target
        inputs = {"x": x, "leak_num": leak_num, "leak_den": leak_den, "sources": by.others}
        inputs |= named(by.gather(synapses))
        outputs = {"num": (B, T, H), "den": (B, T, H)}
        out = launch("ltc_list_sensory_forward", by, B * T, (I, H), inputs, outputs)
        return out["num"], out["den"]

    def backward(primals, cotangents, outputs):
        x, leak_num, _, *synapses = primals
        (B, T, I), H, by = x.shape, leak_num.shape[0], lists.by_source
        dnum, dden = cotangents
        inputs = {"x": x, "dnum": dnum, "dden": dden, "targets": by.others}
        inputs |= named(by.gather(synapses))
        dx = launch("ltc_list_sensory_backward", by, B * T, (I, H), inputs, {"dx": (B, T, I)})
        dsynapses = listed_gradients(run, lists, x, dnum, dden, synapses)
        return dx["dx"], dnum.sum(axis=(0, 1)), dden.sum(axis=(0, 1)), *dsynapses

    return run.operator(forward, backward)


def dense_gradients(run, sources, dnum, dden, synapses, *, of_sources):
    """Gradients of the four [S, H] and, if asked for, of the sources [..., S], from those of the
    sums [..., H].
    """
    S, H = synapses[0].shape
    rows = dnum.size // H
    chunks = _launch.synapse_chunks(rows, S, H)
    outputs = {"slabs": (chunks, 4, S, H)}
    if of_sources:
        outputs["dx"] = (*sources.shape, _launch.ceil_div(H, _launch.SIMD))
    out = run(
        "ltc_synapse_backward",
        _launch.synapse_backward(S, H, chunks),
        (rows, S, H, chunks),
        {"x": sources, "dnum": dnum, "dden": dden, **named(synapses)},
        outputs,
        flags={"SOURCE_GRADIENT": of_sources},
    )
    return tuple(out["slabs"].sum(axis=0)), out["dx"].sum(axis=-1) if of_sources else None


def listed_gradients(run, lists, x, dnum, dden, synapses):
    """Gradients of the four [S, H] from x [..., S] and those of the sums [..., H]."""
    (S, H), count = synapses[0].shape, lists.source.size
    rows = dnum.size // H
    chunks = _launch.synapse_chunks(rows, count, 1)
    ends = {"sources": lists.source, "targets": lists.target}
    out = run(
        "ltc_list_gradient",
        _launch.list_gradient(count, chunks),
        (rows, count, S, H, chunks),
        {"x": x, "dnum": dnum, "dden": dden, **ends, **named(lists.pick(synapses))},
        {"slabs": (chunks, 4, count)},
    )
    return tuple(lists.scatter(g, (S, H)) for g in out["slabs"].sum(axis=0))
