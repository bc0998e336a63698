"""`python -m tools.plans`: the table of docs/metal_kernels.md, or the derived times of one call."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mlx_ncps import plans

from . import chips, compiled, table
from .launches import Launch, gpu_launches, seconds


def derived(launches: list[Launch]) -> list[str]:
    """Registers, residents and times of each kernel, as lines of text."""
    lines = [
        "on a GPU, beside MLX's own operations; registers: estimated",
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


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, or one call."""
    parser = argparse.ArgumentParser(prog="python -m tools.plans", description=__doc__)
    parser.add_argument("op", nargs="?", choices=("ltc", "cfc"))
    plans.add_sizes(parser)
    text = "the table of docs/agx.md, of instructions as compiled"
    parser.add_argument("--compiled", action="store_true", help=text)
    arguments = parser.parse_args(argv)
    if arguments.op is None:
        print("\n".join(compiled.markdown() if arguments.compiled else table.markdown()))
        return 0
    try:
        trace, facts = plans.traced(arguments.op, arguments.sizes, arguments.mode)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(derived(gpu_launches(trace, **facts, training=arguments.training))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
