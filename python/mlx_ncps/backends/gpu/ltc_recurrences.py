"""The kinds of kernels of the LTC's recurrence, the rows of `RECURRENCES`, and how their gradients
join (MATHS 3 to 5).

What a call has beside the LTC is seen by its arrays: with `resets` its state starts anew before
some steps, with `recurrent` an LSTM is in front.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import mlx.core as mx

from .ltc_lists import Lists, gather
from .ltc_synapses import dense_gradients, lists_gradients

if TYPE_CHECKING:
    from .runner import Runner

Arrays = dict[str, mx.array]
Shapes = dict[str, tuple[int, ...]]
Sizes = tuple[int, int, int, int]  # B, T, U, H


class Recurrence(NamedTuple):
    """A kind of kernels. `forward(run, lists, sizes, inputs, outputs)` and
    `backward(run, lists, sizes, inputs, synapses, beside)` launch them; beside: the shapes of the
    gradients of what a call has beside the LTC.
    """

    forward: Callable[..., Arrays]
    backward: Callable[..., dict[str, Any]]
    by_lists: bool
    what: str


def beside_flags(inputs: Mapping[str, mx.array]) -> dict[str, bool]:
    """The macros of what a call has beside the LTC."""
    return {"RESETS": "resets" in inputs, "MEMORY": "recurrent" in inputs}


def _dense_forward(
    run: Runner, lists: Lists | None, sizes: Sizes, inputs: Arrays, outputs: Shapes
) -> Arrays:
    B, T, U, H = sizes
    if lists is None:
        launch = run.geometry.dense_forward(B, H)
    elif run.geometry.lists_batch <= B:
        return _lists_forward(run, lists, sizes, inputs, outputs)
    else:
        of = lists.of_targets
        launch = run.geometry.dense_lists_forward(B, H, of.per, of.parts)
        inputs = {**inputs, **gather(of, inputs), "sources": of.others}
    flags = {"SAVE": "saved" in outputs, "LISTS": lists is not None, **beside_flags(inputs)}
    return run("ltc_dense_forward", launch, (T, U, H), inputs, outputs, flags=flags)


def _dense_backward(
    run: Runner, lists: Lists | None, sizes: Sizes, inputs: Arrays, synapses: Arrays, beside: Shapes
) -> dict[str, Any]:
    B, T, _, H = sizes
    flags = {"LISTS": lists is not None, **beside_flags(inputs)}
    if lists is None:
        most, launch = run.geometry.lstm_backward_per, run.geometry.dense_backward(B, H)
    else:
        most, of = run.geometry.lstm_lists_backward_per, lists.of_sources
        launch = run.geometry.dense_lists_backward(B, H, of.per, of.parts)
    if flags["MEMORY"] and launch.argument("PER") > most:  # they and the LSTM are too many
        if lists is None:
            return _streamed_backward(run, None, sizes, inputs, synapses, beside)
        return _lists_backward(run, lists, sizes, inputs, synapses, beside)
    if lists is not None:
        of = lists.of_sources
        inputs = {**inputs, **gather(of, synapses), "targets": of.others}
    groups, columns = launch.groups[0], launch.argument("PER") * launch.argument("PARTS")
    steps = dict.fromkeys(("dnum", "dden", "dts"), (B, T, H))
    outputs = {"dv0": (B, H), **steps, "dcm": (groups, H), "slabs": (groups, 4, H, columns)}
    outputs |= beside
    out = run("ltc_dense_backward", launch, (*sizes, groups), inputs, outputs, flags=flags)
    dsynapses = out["slabs"].sum(axis=0)
    if lists is None:
        dsynapses = dsynapses if columns == H else dsynapses[..., :H]
    else:
        dsynapses = (lists.of_sources.scatter(g, (H, H)) for g in dsynapses)
    return out | {"dcm": out["dcm"].sum(axis=0), "synapses": tuple(dsynapses)}


def _streamed_forward(
    run: Runner, lists: None, sizes: Sizes, inputs: Arrays, outputs: Shapes
) -> Arrays:
    beside = beside_flags(inputs)
    launch = run.geometry.streamed_forward(sizes[0], sizes[3], beside["MEMORY"])
    flags = {"SAVE": "saved" in outputs, **beside}
    return run("ltc_streamed_forward", launch, sizes, inputs, outputs, flags=flags)


def _streamed_backward(
    run: Runner, lists: None, sizes: Sizes, inputs: Arrays, synapses: Arrays, beside: Shapes
) -> dict[str, Any]:
    B, T, U, H = sizes
    flags = beside_flags(inputs)
    out = run(
        "ltc_streamed_backward",
        run.geometry.streamed_backward(B, H, flags["MEMORY"]),
        sizes,
        {**inputs, **{name: p.T for name, p in synapses.items()}},
        {"dv0": (B, H), "grad": (B, T, U, H), **beside},
        flags=flags,
    )
    grads = _neuron_gradients(run, sizes, out.pop("grad"), inputs)
    unfolds = grads.pop("unfold_dn"), grads.pop("unfold_dd")
    dsynapses, _ = dense_gradients(run, inputs["before"], *unfolds, synapses, of_sources=False)
    return out | grads | {"synapses": dsynapses}


def _lists_forward(
    run: Runner, lists: Lists, sizes: Sizes, inputs: Arrays, outputs: Shapes
) -> Arrays:
    by, beside = lists.by_target, beside_flags(inputs)
    return run(
        "ltc_lists_forward",
        run.geometry.lists(sizes[0], sizes[3], beside["MEMORY"]),
        (*sizes, by.slices),
        {**inputs, **gather(by, inputs), "sources": by.others},
        outputs,
        flags={"SAVE": "saved" in outputs, **beside},
    )


def _lists_backward(
    run: Runner, lists: Lists, sizes: Sizes, inputs: Arrays, synapses: Arrays, beside: Shapes
) -> dict[str, Any]:
    B, T, U, H = sizes
    by, flags = lists.by_source, beside_flags(inputs)
    out = run(
        "ltc_lists_backward",
        run.geometry.lists(B, H, flags["MEMORY"]),
        (*sizes, by.slices),
        {**inputs, **gather(by, synapses), "targets": by.others},
        {"dv0": (B, H), "grad": (B, T, U, H), **beside},
        flags=flags,
    )
    grads = _neuron_gradients(run, sizes, out.pop("grad"), inputs)
    unfolds = grads.pop("unfold_dn"), grads.pop("unfold_dd")
    dsynapses = lists_gradients(run, lists, inputs["before"], *unfolds, synapses)
    return out | grads | {"synapses": dsynapses}


def _neuron_gradients(run: Runner, sizes: Sizes, grad: mx.array, kept: Arrays) -> Arrays:
    """From each unfold's dL/dv' over its denominator: the gradients of its sums, of the steps'
    sums, of cm, and of ts per neuron.
    """
    B, T, U, H = sizes
    steps = dict.fromkeys(("dnum", "dden", "dcm", "dts"), (B, T, H))
    out = run(
        "ltc_neuron_backward",
        run.geometry.neurons(H, B * T),
        sizes,
        {"grad": grad, **{name: kept[name] for name in ("before", "saved", "states", "ts")}},
        {"unfold_dn": (B, T, U, H), "unfold_dd": (B, T, U, H), **steps},
    )
    return out | {"dcm": out["dcm"].sum(axis=(0, 1))}


RECURRENCES = {
    "dense": Recurrence(_dense_forward, _dense_backward, False, "all synapses in registers"),
    "dense_lists": Recurrence(
        _dense_forward, _dense_backward, True, "the synapses of a wiring's lists in registers"
    ),
    "streamed": Recurrence(
        _streamed_forward, _streamed_backward, False, "all synapses streamed, shared by batch rows"
    ),
    "lists": Recurrence(_lists_forward, _lists_backward, True, "a wiring's lists streamed"),
}
