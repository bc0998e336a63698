"""Times of a recurrence by its instructions as compiled: tools/agx/loops.json has the loops of the
machine code, this how often a call turns each. Nothing is measured.

Without waiting, memory, MLX's products and launches; a core's four schedulers take a SIMD group's
instruction each per cycle.
"""

from __future__ import annotations

import json
import math
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from mlx_ncps.backends.gpu.trace import groups_of, runner, trace_cfc, trace_ltc

from tools.agx import loops
from tools.agx.variants import variant_name

from . import chips, costs
from .launches import geometry_of
from .table import INPUTS, STEPS, UNFOLDS, auto_ncp, of_chips

BEFORE = json.loads(Path(__file__).with_name("before.json").read_text(encoding="utf-8"))
MARKS = "<!-- predicted: begin -->\n", "<!-- predicted: end -->\n"
SCHEDULERS = 4  # of a core
BATCHES = (1, 8, 64, 256)
_LTC = {"inputs": INPUTS, "steps": STEPS, "unfolds": UNFOLDS}
_CFC = {"inputs": INPUTS, "steps": STEPS, "mode": "default", "activation": "lecun_tanh"}
CALLS = {
    "CfC 128": partial(trace_cfc, units=128, backbone=(128,), scalar_ts=True, **_CFC),
    "LTC 64": partial(trace_ltc, units=64, **_LTC),
    "LTC AutoNCP(64, 8)": partial(trace_ltc, units=64, synapses=auto_ncp(64, 8), **_LTC),
    "LTC 128": partial(trace_ltc, units=128, **_LTC),
}


# Of a synapse in an unfold, the cycles of a SIMD group that its maths alone take: exp2 4, the
# reciprocal 6, 1 + 2^z, and multiply-adds or their like. Forward z, n and d; backward z,
# dn we + dd w, s - s^2 and the source's sum; in registers dz and four gradients besides.
FLOORS = {"forward": 11 + 3, "backward": 11 + 5, "dense_backward": 11 + 10}


class Launched(NamedTuple):
    """A launch of a kernel that has the steps of a sequence in a loop."""

    variant: str
    facts: costs.Facts


@cache
def launched(call: str, batch: int, chip: chips.Chip) -> tuple[Launched, ...]:
    """The recurrence of a training call, forward and backward, as the chip's class launches it."""
    found = []

    def launch(kernel: dict, call: dict) -> None:
        name = variant_name(kernel, call)
        if not name.startswith(("cfc_", *_PATHS)) or name.startswith("cfc_update"):
            return
        buffers = dict(zip(kernel["input_names"], call["inputs"], strict=True))
        entries = buffers.get("sources", buffers.get("targets"))
        facts = costs.Facts(
            buffers["sizes"].tolist(),
            dict(call["template"]),
            call["threadgroup"],
            groups_of(call),
            0 if entries is None else entries.size // 32,
        )
        found.append(Launched(name, facts))

    CALLS[call](runner(launch, geometry_of(chip)), batch=batch, training=True)
    return tuple(found)


def names() -> set[str]:
    """The variants whose loops must be known."""
    return {
        one.variant
        for call in CALLS
        for batch in BATCHES
        for chip in chips.CHIPS
        for one in launched(call, batch, chip)
    }


def cycles(one: Launched, code: loops.Loop) -> float:
    """Of a SIMD group of the launch. Raises ValueError where the code has other loops than this
    file knows.
    """
    turns = _cfc_turns if one.variant.startswith("cfc_") else _ltc_turns
    known = turns(one, code)
    return code.cost(lambda loop: known.get(id(loop), 1))


# Of an LTC's loops, outermost first: turns from the sizes of a launch. Those that stream synapses
# end with the loop over them, whose turns follow from the gates in it.
_PATHS = {
    "ltc_dense_forward": lambda f: (f.sizes[0], f.sizes[1]),
    "ltc_dense_backward": lambda f: (math.ceil(f.sizes[0] / f.groups), *f.sizes[1:3]),
    "ltc_streamed": lambda f: (*f.sizes[1:3], _passes(f), _streamed_share(f)),
    "ltc_lists_forward": lambda f: (*f.sizes[1:3], f.sizes[4], _of_slice(f)),
    "ltc_lists_backward": lambda f: (*f.sizes[1:3], f.sizes[4], _of_slice(f)),
}


def _passes(f: costs.Facts) -> int:
    return math.ceil(f.sizes[3] / (f.threads[0] // f.template["PARTS"]))


def _share(f: costs.Facts, depth: int) -> float:
    return math.ceil(depth / f.template["PARTS"]) * f.template["ROWS"]


def _streamed_share(f: costs.Facts) -> float:
    return _share(f, f.sizes[3] - f.template["HELD"] * f.template["PARTS"])


def _of_slice(f: costs.Facts) -> float:
    return f.entries / f.sizes[4] * f.template["ROWS"]


def _ltc_turns(one: Launched, code: loops.Loop) -> dict[int, float]:
    path = next(turns for name, turns in _PATHS.items() if one.variant.startswith(name))(one.facts)
    known, at = {}, code
    for depth, count in enumerate(path):
        at = _only(one, at, "exp2")
        gates = at.mix["exp2"] if "ROWS" in one.facts.template and depth == len(path) - 1 else 1
        known[id(at)] = count / gates
    if at.inner:
        raise ValueError(f"[plans] {one.variant}: a loop within the one over its gates")
    return known


def _only(one: Launched, code: loops.Loop, work: str) -> loops.Loop:
    """The loop within that has the work."""
    having = [inner for inner in code.inner if inner.count(work)]
    if len(having) != 1:
        raise ValueError(f"[plans] {one.variant}: {len(having)} loops with {work} side by side")
    return having[0]


def _cfc_turns(one: Launched, code: loops.Loop) -> dict[int, float]:
    f, backward = one.facts, one.variant.startswith("cfc_backward")
    steps = max(code.inner, key=lambda loop: loop.bytes)
    known: dict[int, float] = {id(steps): f.sizes[1]}
    columns = [loop for loop in steps.inner if loop.inner]
    stages = costs.cfc_stages(f, backward)
    if len(columns) != len(stages):
        raise ValueError(f"[plans] {one.variant}: {len(columns)} loops of {len(stages)} stages")
    for loop, (width, depth, heads) in zip(columns, stages, strict=True):
        known[id(loop)] = math.ceil(width / (f.threads[0] // f.template["PARTS"]))
        product = max(loop.inner, key=lambda inner: inner.mix["ffma"])
        known[id(product)] = _share(f, depth) * heads / product.mix["ffma"]
    return known


def milliseconds(call: str, batch: int, chip: chips.Chip, code: dict[str, loops.Loop]) -> float:
    """Of forward and backward."""
    found = 0.0
    for one in launched(call, batch, chip):
        groups = math.ceil(one.facts.groups / chip.cores)
        turns = max(1.0, groups * math.ceil(one.facts.threads[0] / 32) / SCHEDULERS)
        found += cycles(one, code[one.variant]) * turns / (chip.gigahertz * 1e6)
    return found


def floor(call: str, batch: int, chip: chips.Chip) -> float:
    """Milliseconds of an LTC's forward and backward whose synapses cost FLOORS and nothing else
    costs anything, on cores that share out the rows; 0 of a CfC.
    """
    lists, found = CALLS[call].keywords.get("synapses"), 0.0
    for one in launched(call, batch, chip):
        kind = next((k for k in reversed(FLOORS) if k in one.variant), None)
        if one.variant.startswith("cfc_") or kind is None:
            continue
        sizes = one.facts.sizes
        steps, unfolds, units = sizes[:3] if "dense_forward" in one.variant else sizes[1:4]
        synapses = units * units if lists is None else lists.source.size
        found += math.ceil(batch / chip.cores) * steps * unfolds * synapses * FLOORS[kind]
    return found / (chips.LANES * chip.gigahertz * 1e6)


def markdown() -> list[str]:
    """The table of docs/agx.md."""
    code = loops.load()
    names_ = " / ".join(chip.name for chip in chips.CHIPS)
    head = [f"training, T = {STEPS}", "B", f"before, ms: {names_}", "now", "faster"]
    head += ["floor, ms", "now over floor"]
    rows = [head, ["---"] * len(head)]
    for call in CALLS:
        for batch in BATCHES:
            now = [milliseconds(call, batch, chip, code) for chip in chips.CHIPS]
            before: Any = BEFORE["ms"].get(call, {}).get(str(batch))
            ratios = zip(before, now, strict=True) if before else ()
            faster = " / ".join(f"{a / b:.1f}" for a, b in ratios)
            rows.append([call, str(batch), of_chips(before or ()) or "-", of_chips(now)])
            least = [floor(call, batch, chip) for chip in chips.CHIPS]
            over = " / ".join(f"{a / b:.1f}" for a, b in zip(now, least, strict=True) if b)
            rows[-1] += [faster or "-", of_chips(least) if any(least) else "-", over or "-"]
    return ["| " + " | ".join(row) + " |" for row in rows]


def write_page(file: Path) -> None:
    """Put the table into a page, between its marks."""
    before, rest = file.read_text(encoding="utf-8").split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    table = "\n".join(markdown()) + "\n"
    file.write_text(before + MARKS[0] + table + MARKS[1] + after, encoding="utf-8")
