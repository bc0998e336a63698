"""Compiles the GPU kernels with CUDA's compiler, without a GPU, and lists registers, spills and
threadgroup memory of the variants that common shapes launch, and how many of their threadgroups fit
a core.

    pip install nvidia-cuda-nvrtc-cu12
    python -m tools.kernel_registers        # the table of docs/metal_kernels.md

1 if a variant spills.
"""

from __future__ import annotations

import re
import sys
from dataclasses import replace

from mlx_ncps.backends.gpu.geometry import APPLE

from tests.support.as_cuda import (
    ARCHITECTURES,
    nvrtc,
    outside_registers,
    recorded,
    registers,
)
from tests.support.cases import CfcCase, LtcCase
from tools.plans import chips

PLAIN = replace(APPLE, matrix=False)  # CUDA has no matrices of Metal's kind
FEW = {"steps": 2, "unfolds": 2}
CASES = {
    **{f"LTC {n}": LtcCase(batch=2, units=n, **FEW) for n in (8, 16, 32, 64)},
    "LTC 64, 20 % of synapses": LtcCase(batch=2, units=64, density=0.2, **FEW),
    "LTC 128, 15 %": LtcCase(batch=2, units=128, density=0.15, **FEW),
    "LTC 128, B 8": LtcCase(batch=8, units=128, **FEW),
    "LTC 128, B 64": LtcCase(batch=64, units=128, **FEW),
    "LTC 256, B 64, 10 %": LtcCase(batch=64, units=256, density=0.1, **FEW),
    "CfC 32": CfcCase(batch=8, steps=2, units=32, backbone_units=32),
    "CfC 128, B 8": CfcCase(batch=8, steps=2, units=128, backbone_units=128),
    "CfC 128, B 64": CfcCase(batch=64, steps=2, units=128, backbone_units=128),
    "CfC 128, B 128": CfcCase(batch=128, steps=2, units=128, backbone_units=128),
    "CfC 64, B 64, ts [B, T]": CfcCase(
        batch=64, steps=2, units=64, backbone_units=64, timespans="per_batch"
    ),
    "CfC 64, B 64, gelu": CfcCase(
        batch=64, steps=2, units=64, backbone_units=64, activation="gelu"
    ),
    "CfC 64, B 64, no_gate": CfcCase(
        batch=64, steps=2, units=64, backbone_units=64, mode="no_gate"
    ),
    "CfC 64, B 64, keras": CfcCase(batch=64, steps=2, units=64, backbone_units=64, variant="keras"),
    "CfC 64, B 64, paper": CfcCase(batch=64, steps=2, units=64, backbone_units=64, variant="paper"),
    "CfC 64, B 64, pure": CfcCase(batch=64, steps=2, units=64, layers=0, mode="pure"),
    "CfC 64, B 64, dropout": CfcCase(
        batch=64, steps=2, units=64, backbone_units=64, layers=2, dropout=0.5
    ),
    "CfC 256": CfcCase(batch=2, steps=1, units=256, backbone_units=256),
}
HEAD = ["call", "kernel", "threads", *ARCHITECTURES, "spilled bytes", "threadgroup bytes"]
HEAD += ["resident: Apple", "sm_90a"]


def variant(compiled, call, name, text, threads) -> list[str]:
    """The cells of one kernel. Raises ValueError when it does not compile."""
    logs = []
    for architecture in ARCHITECTURES:
        code, log = compiled(text, architecture)
        if code:
            raise ValueError(f"[kernel_registers] {name}:\n{log}")
        logs.append(log)
    counts = [registers(log) for log in logs]
    spilled = max(max(outside_registers(log)) for log in logs)
    found = re.search(r"(\d+) bytes smem", logs[-1])
    shared = int(found[1]) if found else 0
    held = [chips.resident(c, threads, counts[-1], shared) for c in (chips.CHIPS[0], chips.H200)]
    kernel = re.match(r"custom_kernel_ncps_([a-z_]+[a-z])", name)[1]
    return [call, f"`{kernel}`", *map(str, (threads, *counts, spilled, shared, *held))]


def rows(compiled) -> list[list[str]]:
    """The cells of every kernel that the calls launch, each variant once."""
    found, seen = [], set()
    for call, case in CASES.items():
        for name, (text, threads) in recorded(case, PLAIN).items():
            if name not in seen:
                seen.add(name)
                found.append(variant(compiled, call, name, text, threads))
    return found


def markdown(found) -> str:
    """The table in Markdown."""
    lines = [HEAD, ["---"] * len(HEAD), *found]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def main() -> int:
    """Print the table."""
    compiled = nvrtc()
    if compiled is None:
        print("no NVRTC: pip install nvidia-cuda-nvrtc-cu12", file=sys.stderr)
        return 2
    found = rows(compiled)
    print(markdown(found))
    return int(any(cells[HEAD.index("spilled bytes")] != "0" for cells in found))


if __name__ == "__main__":
    sys.exit(main())
