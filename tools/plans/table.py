"""The table of launch plans in docs/metal_kernels.md, derived by the cost model and measured on no
GPU; `python -m tools.plans` prints it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import numpy as np
from mlx_ncps import wirings
from mlx_ncps.backends.gpu.geometry import CUDA
from mlx_ncps.backends.gpu.trace import trace_cfc, trace_ltc
from mlx_ncps.ops import SynapseLists

from . import chips
from .launches import Launch, geometry_of, gpu_launches, seconds

BATCHES = (1, 8, 64, 512)
STEPS, INPUTS, UNFOLDS = 128, 64, 6
HEAD = ("call", "B", "recurrence", "groups x threads", "resident")
LTC_CUDA = {"batch": 24, "steps": 8, "inputs": 128, "units": 64, "unfolds": 6}


def ltc(batch, *, units, steps=STEPS, synapses=None, **more) -> list[Launch]:
    """The launches of an LTC of the table; more: training, geometry."""
    facts = {"batch": batch, "steps": steps, "inputs": INPUTS, "units": units, "unfolds": UNFOLDS}
    return gpu_launches(trace_ltc, **facts, synapses=synapses, **{"training": False} | more)


def cfc(batch, *, units, steps=STEPS, **more) -> list[Launch]:
    """The launches of a CfC of the table: one layer as wide as the state, scalar timespans; more:
    training, geometry.
    """
    facts = {"batch": batch, "steps": steps, "inputs": INPUTS, "units": units}
    facts |= {"backbone": (units,), "mode": "default", "activation": "lecun_tanh"}
    return gpu_launches(trace_cfc, **facts, scalar_ts=True, **{"training": False} | more)


def auto_ncp(units: int, motor: int) -> SynapseLists:
    """The synapses of AutoNCP(units, motor)."""
    wiring = wirings.AutoNCP(units, motor)
    wiring.build(INPUTS)
    return SynapseLists(abs(wiring.adjacency_matrix), abs(wiring.sensory_adjacency_matrix))


def product_seconds(chip, batch, units, steps, stepwise: bool, training: bool) -> float:
    """MLX's matrix products of a CfC of the table: for the inputs of all steps, in training the
    gradients of all weights, and of every step where it runs step by step.
    """
    edges = [units, units, 3 * units]
    weights = sum(n * m for n, m in itertools.pairwise(edges))
    rate = chips.LANES * chips.PRODUCT_SHARE * chip.cores * chip.gigahertz * 1e9
    rows = batch * steps
    found = rows * INPUTS * units / rate + chips.LAUNCH_SECONDS
    if training:
        found += rows * (2 * INPUTS * units + weights) / rate + 4 * chips.LAUNCH_SECONDS
    if stepwise:
        pairs = itertools.pairwise(edges)
        step = sum(chips.product_seconds(chip, batch, n, m) for n, m in pairs)
        found += steps * step * (2 if training else 1)
    return found


class Row(NamedTuple):
    """One call of the table."""

    name: str
    batch: int
    steps: int
    plan: Callable  # (batch, steps=, training=) -> launches
    units: int = 0  # of a CfC


def rows() -> list[Row]:
    """All calls of the table."""
    calls = [(f"LTC {n}", STEPS, partial(ltc, units=n)) for n in (8, 16, 32, 64, 128, 256)]
    for units, motor in ((64, 8), (256, 16)):
        plan = partial(ltc, units=units, synapses=auto_ncp(units, motor))
        calls.append((f"LTC AutoNCP({units}, {motor})", STEPS, plan))
    calls += [(f"CfC {n}", STEPS, partial(cfc, units=n), n) for n in (32, 64, 128, 256)]
    calls.append(("LTC 64, one step", 1, partial(ltc, units=64)))
    calls.append(("CfC 128, one step", 1, partial(cfc, units=128), 128))
    return [Row(name, batch, *more) for name, *more in calls for batch in BATCHES]


def line(row: Row) -> list[str]:
    """The cells of one call."""
    plans = {
        (t, chip): row.plan(row.batch, steps=row.steps, training=t, geometry=geometry_of(chip))
        for t in (False, True)
        for chip in chips.CHIPS
    }
    mains = [plans[False, chip][-1] for chip in chips.CHIPS]  # the recurrence comes last
    main = mains[0]
    stepwise = main.kernel.startswith("ncps_cfc_update")
    times = []
    for training in (False, True):
        found = [seconds(plans[training, chip], chip) for chip in chips.CHIPS]
        if row.units:
            facts = row.batch, row.units, row.steps, stepwise, training
            products = (product_seconds(chip, *facts) for chip in chips.CHIPS)
            found = [a + b for a, b in zip(found, products, strict=True)]
        times.append(of_chips(1e3 * np.array(found)))
    bounds = dict.fromkeys(
        one.estimate(chip).bound for one, chip in list(zip(mains, chips.CHIPS, strict=True))[:2]
    )
    bound = "products, launches" if stepwise else ", then ".join(bounds)
    kernel = "MLX's products" if stepwise else f"`{main.kernel.removeprefix('ncps_')}`"
    resident = "-" if stepwise else str(main.resident(chips.CHIPS[0]))
    groups = ", ".join(dict.fromkeys(str(one.groups) for one in mains))
    shape = "-" if stepwise else f"{groups} x {main.threads}"
    return [row.name, str(row.batch), kernel, shape, resident, *times, bound]


def of_chips(found: Iterable[float]) -> str:
    """Milliseconds of several chips in a cell."""
    return " / ".join(f"{ms:.0f}" if ms >= 99.5 else f"{ms:.2g}" for ms in found)


def markdown() -> list[str]:
    """The table in Markdown, and what it can be held against."""
    names = " / ".join(chip.name for chip in chips.CHIPS)
    head = [*HEAD, f"forward, ms: {names}", "with gradient, ms", "bound"]
    lines = [head, ["---"] * len(head), *(line(row) for row in rows())]
    table = ["| " + " | ".join(cells) + " |" for cells in lines]
    return [*table, "", *comparison()]


def comparison() -> list[str]:
    """NVIDIA chips, whose geometry differs: common calls, and the shape that ltc-cuda publishes."""
    calls = {"LTC 64": (ltc, 64), "LTC 128": (ltc, 128), "CfC 128": (cfc, 128)}
    texts = []
    for name, (call, units) in calls.items():
        times = _cuda_ms(chips.H200, partial(call, 64, units=units))
        texts.append(f"{name}: {times}")
    published = "B{batch} T{steps} I{inputs} H{units} U{unfolds}".format(**LTC_CUDA)
    times = _cuda_ms(chips.GTX_1080, partial(gpu_launches, trace_ltc, **LTC_CUDA))
    return [
        "The backend cuda, derived, forward and with gradient in ms, without MLX's products. A "
        f"chip like an H200, B 64: {'; '.join(texts)}. "
        f"A chip like a GTX 1080, LTC {published}: {times}."
    ]


def _cuda_ms(chip, plan) -> str:
    found = (seconds(plan(geometry=CUDA, training=t), chip) for t in (False, True))
    return " and ".join(f"{1e3 * s:.2g}" for s in found)
