"""How a call of `ltc_sequence` or `cfc_sequence` would be launched: on which backend and why, at
once or by a graph, and with which kernels on a GPU. Nothing is computed and no GPU is needed.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from typing import Any

from . import _loader, dispatch
from .at_once import why_too_large
from .backends import CfCFacts, Facts, LTCFacts
from .backends.gpu import ltc
from .backends.gpu.geometry import APPLE
from .backends.gpu.trace import Launched, launches, trace_cfc, trace_ltc
from .ops import MODES

LETTERS = {"ltc": "BTIHU", "cfc": "BTIHKL"}


def explain_ltc(
    B: int = 1, T: int = 1, I: int = 1, H: int = 1, U: int = 6, *, training: bool = False
) -> list[str]:
    """The plan of an LTC with all synapses, as lines of text."""
    sizes = {"batch": B, "steps": T, "inputs": I, "units": H, "training": training}
    facts = LTCFacts(**sizes, ode_unfolds=U)
    choice = dispatch.explain("ltc_sequence", facts)
    native = _loader.native
    kernel = native.ltc_kernel(B, I, H, U) if native else None
    refused = APPLE.ltc_excess(I, H, U)
    what = f"the recurrence has {ltc.RECURRENCES[ltc.kind_of(APPLE, H)].what}"
    found = [] if refused else launches(trace_ltc, **sizes, unfolds=U)
    lines = _cpu_lines("ltc_sequence", choice, facts, f"the kernel '{kernel}'")
    return lines + _gpu_lines(refused or what, found)


def explain_cfc(
    B: int = 1,
    T: int = 1,
    I: int = 1,
    H: int = 1,
    K: int = 128,
    L: int = 1,
    *,
    mode: str = "default",
    training: bool = False,
) -> list[str]:
    """The plan of a CfC with L backbone layers of K units, as lines of text."""
    sizes: dict[str, Any] = {"batch": B, "steps": T, "inputs": I, "units": H, "training": training}
    sizes |= {"backbone": (K,) * L, "mode": mode, "scalar_ts": True, "activation": "lecun_tanh"}
    facts = CfCFacts(**sizes)
    choice = dispatch.explain("cfc_sequence", facts)
    what = "all steps in one launch, as a threadgroup reads the weights quickly enough"
    if APPLE.cfc_takes_products(H, (K,) * L, 1 if mode == "pure" else 3):
        what = "step by step on MLX's products, as a threadgroup would read the weights for longer"
    refused = APPLE.cfc_excess(I, H, (K,) * L)
    found = [] if refused else launches(trace_cfc, **sizes)
    lines = _cpu_lines("cfc_sequence", choice, facts, "packed matrix products")
    return lines + _gpu_lines(refused or what, found)


def _cpu_lines(op: str, choice: dispatch.Choice, facts: Facts, kernel: str) -> list[str]:
    """The backend, whether a layer that makes this call computes it at once, and the CPU's
    kernel.
    """
    if facts.training:
        why = "a gradient traces it"
    else:
        why = why_too_large([(op, facts)], False, facts.batch, facts.steps)
    layer = "a layer computes it at once on the CPU, where nothing is traced, without a graph"
    if why:
        layer = f"a layer leaves it to a graph: {why}"
    lines = [f"{op} runs here on {choice}", layer]
    native = _loader.native
    if native:
        lines.append(f"on a CPU: {kernel}, {native.isa()}, {native.num_threads()} threads")
    return lines


def _gpu_lines(what: str, found: list[Launched]) -> list[str]:
    lines = ["", f"on a GPU (metal, metallib): {what}"]
    if found:
        lines += [
            "beside MLX's own operations; each launch: threadgroups, and threads of each",
            f"  {'kernel':<40} {'launches':>8} {'groups':>7} {'threads':>7}",
        ]
    for one in found:
        lines.append(f"  {one.kernel:<40} {one.launches:>8} {one.groups:>7} {one.threads:>7}")
    return lines


def traced(
    op: str, words: Sequence[str], mode: str = "default"
) -> tuple[Callable[..., None], dict[str, Any]]:
    """(trace, its facts but `training`) of a call of "ltc" or "cfc" with these sizes."""
    sizes = dict.fromkeys("BTIH", 1) | {"U": 6, "K": 128, "L": 1} | parse_sizes(words, LETTERS[op])
    names = {"batch": "B", "steps": "T", "inputs": "I", "units": "H"}
    facts: dict[str, Any] = {name: sizes[letter] for name, letter in names.items()}
    if op == "ltc":
        return trace_ltc, facts | {"unfolds": sizes["U"]}
    facts |= {"backbone": (sizes["K"],) * sizes["L"], "mode": mode, "scalar_ts": True}
    return trace_cfc, facts | {"activation": "lecun_tanh"}


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """The arguments of a command that takes the sizes of a call."""
    letters = "letters and sizes: B sequences, T steps, I inputs, H neurons, U unfolds of an LTC; "
    letters += "K units and L layers of a backbone"
    parser.add_argument("sizes", nargs="*", metavar="B64", help=letters)
    parser.add_argument("--training", action="store_true", help="with the gradient")
    parser.add_argument("--mode", choices=MODES, default="default", help="of a CfC")


def parse_sizes(words: Sequence[str], allowed: str) -> dict[str, int]:
    """{"B": 64, ...} of ["B64", "T128", ...]. Raises ValueError for another letter or number."""
    sizes = {}
    for word in words:
        found = re.fullmatch(rf"([{allowed}])(\d+)", word)
        if not found or (int(found[2]) < 1 and found[1] != "L"):
            wanted = " ".join(f"{letter}<n>" for letter in allowed)
            raise ValueError(f"[explain] sizes must be among {wanted}, each >= 1, got {word!r}.")
        sizes[found[1]] = int(found[2])
    return sizes
