"""`python -m tools.sass`: counts every variant."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tests.support.as_cuda import nvrtc, nvrtc_version

from . import __doc__ as description
from . import compiler, report


def versions(tool: str) -> str:
    """Of the compiler and the disassembler."""
    said = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout
    release = next(word for line in said.splitlines() for word in line.split() if word[0] == "V")
    return f"NVRTC {'.'.join(map(str, nvrtc_version()))}, nvdisasm {release[1:]}"


def main(argv=None) -> int:
    """0; 1 when a variant is worse than stored; 2 where a tool is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.sass",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--update", action="store_true", help="store what is counted now")
    parser.add_argument("--only", default="", help="variants whose name contains this")
    parser.add_argument("--new", action="store_true", help="store those that plans choose anew")
    options = parser.parse_args(argv)
    tool = compiler.disassembler()
    if nvrtc() is None or tool is None:
        print("needs: pip install nvidia-cuda-nvrtc-cu12 nvidia-cuda-nvdisasm", file=sys.stderr)
        return 2
    stored = report.load()["variants"] if report.FILE.exists() else {}
    today = compiler.variants()
    chosen = [one for one in today if options.only in one.name]
    if options.new:
        chosen = [one for one in chosen if one.name not in stored]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        figures = pool.map(partial(compiler.count, tool=tool), chosen)
        found = {
            one.name: (one.threads, counted) for one, counted in zip(chosen, figures, strict=True)
        }
    if options.update or options.new:
        kept = stored | found if options.new else found
        kept = {one.name: kept[one.name] for one in today if one.name in kept}
        stored = report.write_page(report.save(kept, versions(tool)))["variants"]
    print("\n".join(report.rows(found)))
    kept = {name: one for name, one in stored.items() if options.only in name}
    if options.new:
        kept = {name: one for name, one in kept.items() if name in found}
    faults = report.faults(found, kept)
    print(f"{len(found)} variants, {len(faults)} faults", *faults, sep="\n")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
