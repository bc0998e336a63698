"""Writes the kernels of all files of metal/ as complete Metal functions, in the variants that the
tests' table of cases launches, for a Metal compiler to judge:

    python -m tools.metal_source kernels.metal && xcrun -sdk macosx metal -c kernels.metal

The metallib (build_backend/metallib_source.py) has only what common sizes launch. Needs MLX, but no
GPU; .github/workflows/macos.yml runs it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mlx_ncps.backends import metal, metallib
from mlx_ncps.backends.gpu.runner import THREADS_BOUND, header
from mlx_ncps.backends.gpu.trace import runner

from build_backend.metallib_source import Source
from tests.support.cases import CFC_CASES, LTC_CASES, LTC_WIRED_CASES, CfcCase, LtcCase, make
from tests.support.running import gradients, states

ROOT = Path(__file__).resolve().parent.parent

# What the table leaves out, because float64 would take long: large sizes.
LARGE = [
    LtcCase(batch=64, steps=2, units=256, unfolds=2),
    LtcCase(batch=64, steps=2, units=256, inputs=64, unfolds=2, density=0.1),
    CfcCase(batch=64, steps=2, units=256, backbone_units=128),
    CfcCase(batch=64, steps=2, units=256, backbone_units=256),
    CfcCase(batch=64, steps=2, units=512, mode="pure", layers=0),
]


def record() -> Source:
    """The launches of all cases, traced but not run."""
    source = Source(header(), THREADS_BOUND, metallib.function_name)
    metal.run = runner(source.add)
    metal.available = lambda: (True, "recorded")
    for case in LTC_CASES + LTC_WIRED_CASES + CFC_CASES + LARGE:
        masked = isinstance(case, LtcCase) and make(case).params.mask is not None
        for keywords in ({}, {"synapses": True}) if masked else ({},):
            states(case, "metal", training=False, **keywords)
            gradients(case, "metal", **keywords)
    return source


def main(output: str) -> int:
    """0 where every file of metal/ is among the kernels."""
    source = record()
    Path(output).write_text(source.text(), encoding="utf-8")
    stems = {path.stem for path in (ROOT / "metal").glob("*.metal")}
    missing = [s for s in stems if not any(f"ncps_{s}" in name for name in source.functions)]
    print(f"{output}: {len(source.functions)} functions of {len(stems)} files")
    for stem in sorted(missing):
        print(f"no case launches metal/{stem}.metal", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
