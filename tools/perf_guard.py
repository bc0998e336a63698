#!/usr/bin/env python3
"""Compares the instructions that the CPU kernels execute with stored bounds; see `make guard`.

Instructions, counted by valgrind, do not depend on the machine's speed or load: the same
binary gives the same numbers on every run. The kernels are those for AVX2, which valgrind can run;
AVX-512 and NEON are built from the same text. The count does not see cache misses, nor an
instruction that was replaced by a slower one.

    python -m tools.perf_guard DRIVER             # 1 when a count is beyond its bound
    python -m tools.perf_guard DRIVER --update    # the counts of now become the bounds
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

BOUNDS = Path(__file__).with_suffix(".json")
SLACK = 0.05
ISA = "avx2"


def main(argv=None) -> int:
    """0, 1 when a kernel got slower or has no bound, 2 when nothing can be counted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("driver", type=Path, help="the program mlx_ncps_perf_guard")
    parser.add_argument("--update", action="store_true", help="store the counts as new bounds")
    parser.add_argument("--bounds", type=Path, default=BOUNDS, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    try:
        counts = {case: count(options.driver, case) for case in cases(options.driver)}
    except (OSError, RuntimeError) as error:
        print(f"perf_guard: {error}", file=sys.stderr)
        return 2
    if options.update:
        document = {"compiler": compiler(options.driver), "isa": ISA, "instructions": counts}
        options.bounds.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        print(f"{len(counts)} bounds written to {options.bounds}")
        return 0
    stored = json.loads(options.bounds.read_text(encoding="utf-8"))
    lines, failed = compare(counts, stored["instructions"])
    print("\n".join(lines))
    now = compiler(options.driver)
    if failed and now != stored["compiler"]:
        print(f"The bounds are those of {stored['compiler']}; this is {now}.")
    return int(failed)


def compare(counts: dict[str, int], bounds: dict[str, int]) -> tuple[list[str], bool]:
    """A line for each case, and whether one is beyond its bound, unknown or gone."""
    lines, failed = [], False
    for case in sorted({*counts, *bounds}):
        if case not in counts or case not in bounds:
            lines.append(f"{case}: {'no bound' if case in counts else 'no longer measured'}")
            failed = True
            continue
        change = counts[case] / bounds[case] - 1
        verdict = "TOO MANY" if change > SLACK else "fewer: update?" if change < -SLACK else "ok"
        failed |= change > SLACK
        numbers = f"{counts[case]:>12,} instructions, bound {bounds[case]:>12,}"
        lines.append(f"{case:<28} {numbers} {change:+7.1%}  {verdict}")
    return lines, failed


def cases(driver: Path) -> list[str]:
    """The names that the driver knows."""
    return _run([str(driver)]).stdout.split()


def count(driver: Path, case: str) -> int:
    """Instructions of one guarded call."""
    callgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    done = _run([*callgrind, "--toggle-collect=guarded_call", str(driver), case])
    ran = done.stdout.split()
    if ran != [case, ISA]:
        raise RuntimeError(f"{case} ran {ran[-1:]}, not {ISA}")
    found = re.search(r"Collected\s*:\s*(\d+)", done.stderr)
    if not found or int(found[1]) == 0:
        raise RuntimeError(f"no instructions were counted for {case}")
    return int(found[1])


def compiler(driver: Path) -> str:
    """What built the driver, from the note that compilers leave in it."""
    found = re.search(rb"(GCC|clang)[^\0]{4,80}?(\d+\.\d+)", driver.read_bytes())
    return f"{found[1].decode()} {found[2].decode()}" if found else "an unknown compiler"


def _run(command: list[str]) -> subprocess.CompletedProcess:
    """Raises RuntimeError when it fails, OSError when there is no such program."""
    environment = os.environ | {"MLX_NCPS_ISA": ISA}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[-500:]}")
    return done


if __name__ == "__main__":
    sys.exit(main())
