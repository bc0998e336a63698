"""Launch plans: which kernels a call of `ltc_sequence` or `cfc_sequence` would run, and what it
costs at best; `python -m mlx_ncps explain` prints them. Nothing is computed and no GPU is needed.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import mlx.core as mx

from .. import _loader, dispatch
from . import chips
from .trace import runner, trace_cfc, trace_ltc

SCALARS = 24  # registers of a thread beside its arrays: indices, sums, a gate's temporaries


class Launch(NamedTuple):
    """One kernel of a GPU plan. `registers` is an estimate from the text: the arrays that a thread
    keeps, and SCALARS.
    """

    kernel: str
    groups: int
    threads: int
    threadgroup_bytes: int
    registers: int
    count: int


def gpu_launches(trace, **facts) -> list[Launch]:
    """The launches of a traced call in their order, equal ones counted."""
    seen: dict[tuple, int] = {}

    def launched(kernel, call):
        grid, threads = call["grid"], call["threadgroup"]
        groups = math.prod(-(-g // t) for g, t in zip(grid, threads, strict=True))
        shared, own = _memory(kernel["source"], dict(call["template"]))
        key = (kernel["name"], groups, math.prod(threads), shared, own + SCALARS)
        seen[key] = seen.get(key, 0) + 1

    trace(runner(launched), **facts)
    return [Launch(*key, count) for key, count in seen.items()]


def _memory(source: str, template: dict) -> tuple[int, int]:
    """(bytes of threadgroup memory, floats of a thread's arrays) that a kernel's text declares."""
    sizes = {name: int(value) for name, value in template.items()}
    shared = own = 0
    pattern = r"^\s*(threadgroup )?(?:const )?(?:float|uint|bool) ((?:\w+(?:\[[^\]]+\])+(?:, )?)+)"
    for is_shared, arrays in re.findall(pattern, source, re.MULTILINE):
        for dimensions in re.findall(r"\w+((?:\[[^\]]+\])+)", arrays):
            count = math.prod(_product(d, sizes) for d in re.findall(r"\[([^\]]+)\]", dimensions))
            if is_shared:
                shared += 4 * count
            else:
                own += count
    return shared, own


def _product(text: str, sizes: dict) -> int:
    """The value of "2", "PER" or "PER * PARTS"."""
    factors = (f.strip() for f in text.split("*"))
    return math.prod(int(f) if f.isdigit() else sizes.get(f, 0) for f in factors)


def explain_ltc(B=1, T=1, I=1, H=1, U=6, *, training=False) -> list[str]:
    """The plan of an LTC with all synapses, as lines of text."""
    facts = {"batch": B, "steps": T, "inputs": I, "units": H, "training": training}
    choice = dispatch.explain(
        "ltc_sequence", **facts, dtype=mx.float32, scalar_ts=True, ode_unfolds=U, synapses=None
    )
    native = _loader.native
    kernel = native.ltc_kernel(B, I, H, U) if native else None
    work = chips.ltc_work(B, T, I, H, U, H * H, I * H, training)
    launches = gpu_launches(trace_ltc, **facts, unfolds=U)
    return _text("ltc_sequence", choice, f"the kernel '{kernel}'", launches, work)


def explain_cfc(B=1, T=1, I=1, H=1, K=128, L=1, *, mode="default", training=False) -> list[str]:
    """The plan of a CfC with L backbone layers of K units, as lines of text."""
    facts = {"batch": B, "steps": T, "inputs": I, "units": H, "training": training}
    facts |= {"backbone": (K,) * L, "mode": mode, "scalar_ts": True}
    facts["activation"] = "lecun_tanh"
    choice = dispatch.explain("cfc_sequence", **facts, dtype=mx.float32)
    heads = 1 if mode == "pure" else 3
    work = chips.cfc_work(B, T, I, H, (K,) * L, heads, training)
    launches = gpu_launches(trace_cfc, **facts)
    return _text("cfc_sequence", choice, "packed matrix products", launches, work)


def _text(op, choice, kernel, launches, work) -> list[str]:
    lines = [f"{op} runs here on {choice}"]
    native = _loader.native
    if native:
        lines.append(f"on a CPU: {kernel}, {native.isa()}, {native.num_threads()} threads")
    lines += [
        "",
        "on a GPU (metal, metallib, cuda), beside MLX's own operations; registers: estimated",
    ]
    head = f"  {'kernel':<40} {'launches':>8} {'groups':>7} {'threads':>7} {'bytes':>6} {'regs':>5}"
    lines.append(head)
    for one in launches:
        lines.append(
            f"  {one.kernel:<40} {one.count:>8} {one.groups:>7} {one.threads:>7} "
            f"{one.threadgroup_bytes:>6} {one.registers:>5}"
        )
    total = sum(one.count for one in launches)
    groups = max(one.groups for one in launches)
    lines += [
        "",
        "at best, derived from the chips' published figures, measured on none of them (ms)",
    ]
    lines.append(
        f"  {'chip':<8} {'total':>8} {'multiply-adds':>14} {'exp2, 1/x':>10} {'memory':>8}"
    )
    for chip in chips.CHIPS:
        e = chips.estimate(work, chip, total, groups)
        best, products, special, memory = (1e3 * s for s in (e.seconds, *e[:3]))
        lines.append(
            f"  {chip.name:<8} {best:>8.3f} {products:>14.3f} {special:>10.3f} {memory:>8.3f}"
        )
    return lines


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
