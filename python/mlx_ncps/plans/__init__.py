"""Launch plans: which kernels a call of `ltc_sequence` or `cfc_sequence` would run, and what it
costs at best; `python -m mlx_ncps explain` prints them. Nothing is computed and no GPU is needed.
"""

from __future__ import annotations

import re

from .. import _loader, dispatch
from ..at_once import why_too_large
from ..backends import CfCFacts, Facts, LTCFacts
from . import chips
from .launches import gpu_launches, seconds
from .trace import trace_cfc, trace_ltc


def explain_ltc(B=1, T=1, I=1, H=1, U=6, *, training=False) -> list[str]:
    """The plan of an LTC with all synapses, as lines of text."""
    sizes = {"batch": B, "steps": T, "inputs": I, "units": H, "training": training}
    facts = LTCFacts(**sizes, ode_unfolds=U)
    choice = dispatch.explain("ltc_sequence", facts)
    native = _loader.native
    kernel = native.ltc_kernel(B, I, H, U) if native else None
    launches = gpu_launches(trace_ltc, **sizes, unfolds=U)
    layer = _layer_line("ltc_sequence", facts)
    return _text("ltc_sequence", choice, layer, f"the kernel '{kernel}'", launches)


def explain_cfc(B=1, T=1, I=1, H=1, K=128, L=1, *, mode="default", training=False) -> list[str]:
    """The plan of a CfC with L backbone layers of K units, as lines of text."""
    sizes = {"batch": B, "steps": T, "inputs": I, "units": H, "training": training}
    sizes |= {"backbone": (K,) * L, "mode": mode, "scalar_ts": True, "activation": "lecun_tanh"}
    facts = CfCFacts(**sizes)
    choice = dispatch.explain("cfc_sequence", facts)
    launches = gpu_launches(trace_cfc, **sizes)
    layer = _layer_line("cfc_sequence", facts)
    return _text("cfc_sequence", choice, layer, "packed matrix products", launches)


def _layer_line(op: str, facts: Facts) -> str:
    """Whether a layer that makes this call computes it at once."""
    if facts.training:
        why = "a gradient traces it"
    else:
        why = why_too_large([(op, facts)], False, facts.batch, facts.steps)
    if why:
        return f"a layer leaves it to a graph: {why}"
    return "a layer computes it at once on the CPU, where its inputs are evaluated, without a graph"


def _text(op, choice, layer, kernel, launches) -> list[str]:
    lines = [f"{op} runs here on {choice}", layer]
    native = _loader.native
    if native:
        lines.append(f"on a CPU: {kernel}, {native.isa()}, {native.num_threads()} threads")
    lines += [
        "",
        "on a GPU (metal, metallib), beside MLX's own operations; registers: estimated",
        f"  {'kernel':<40} {'launches':>8} {'groups':>7} {'threads':>7} {'bytes':>6} {'regs':>5} "
        f"{'resident':>8}",
    ]
    for one in launches:
        lines.append(
            f"  {one.kernel:<40} {one.count:>8} {one.groups:>7} {one.threads:>7} "
            f"{one.threadgroup_bytes:>6} {one.registers:>5} {one.resident(chips.CHIPS[0]):>8}"
        )
    lines += [
        "",
        "at best, derived from the chips' published figures, measured on none of them: ms, limit",
        f"  {'':<40} " + " ".join(f"{chip.name:>24}" for chip in chips.CHIPS),
    ]
    for one in launches:
        cells = (one.estimate(chip) for chip in chips.CHIPS)
        texts = " ".join(f"{f'{1e3 * e.seconds:.3f} {e.bound}':>24}" for e in cells)
        lines.append(f"  {one.kernel:<40} {texts}")
    totals = " ".join(f"{f'{1e3 * seconds(launches, c):.3f}':>24}" for c in chips.CHIPS)
    return [*lines, f"  {'with the time to launch':<40} {totals}"]


def parse_sizes(words, allowed: str) -> dict[str, int]:
    """{"B": 64, ...} of ["B64", "T128", ...]. Raises ValueError for another letter or number."""
    sizes = {}
    for word in words:
        found = re.fullmatch(rf"([{allowed}])(\d+)", word)
        if not found or (int(found[2]) < 1 and found[1] != "L"):
            wanted = " ".join(f"{letter}<n>" for letter in allowed)
            raise ValueError(f"[explain] sizes must be among {wanted}, each >= 1, got {word!r}.")
        sizes[found[1]] = int(found[2])
    return sizes
