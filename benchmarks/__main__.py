"""The commands of `python -m benchmarks`: what each measures, and the pages of their results."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import mlx.core as mx

from . import ROOT, machine
from . import __doc__ as description
from .rows import MODES

COMMANDS = {
    "table": "rows of all modes against every baseline (the default)",
    "scaling": "time over T, H, B, U, density and threads, and where unfused code wins; plots",
    "memory": "training memory as T grows; a step over 100 000 time steps",
    "features": "every cell and feature of a layer, and pairs, against the plain layer",
    "streaming": "a step of a stream of every cell, against that of the plain layer",
    "training": "a training step with Adam, of many sizes, against ncps.torch and JAX",
    "page": "write docs/results.md and docs/features.md from the files of results",
    "full": "all of these, of one device, into docs/",
}
RESULTS = ROOT / "docs" / "results"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. 1 when a result was wrong or a process failed, 2 for bad arguments, 130 when
    interrupted by SIGINT or SIGTERM.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    options = parser.parse_args(argv)
    options.typed = shlex.join(argv)
    try:
        with _interruptible():
            _choose_device(options.device)
            return import_module(f"{__package__}.{options.command}").run(options)
    except KeyboardInterrupt:  # before or after the measuring, which handles its own
        print("\ninterrupted", file=sys.stderr)
        return 130
    except ValueError as error:
        if not str(error).startswith("[benchmarks]"):
            raise
        parser.error(str(error))


@contextmanager
def _interruptible():
    """Within it the first SIGINT or SIGTERM raises KeyboardInterrupt. Those that follow do nothing,
    for the command is then keeping what it has, and `timeout` sends two.
    """
    signals = (signal.SIGINT, signal.SIGTERM)

    def stop(number, frame):
        for each in signals:
            signal.signal(each, lambda number, frame: None)
        raise KeyboardInterrupt

    before = {each: signal.signal(each, stop) for each in signals}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler or signal.SIG_DFL)


def _choose_device(device: str) -> None:
    """Raises ValueError where this MLX has no such device."""
    try:
        mx.set_default_device(getattr(mx, device))
    except ValueError as error:
        raise ValueError(f"[benchmarks] --device {device}: {error}") from None


def _parser() -> argparse.ArgumentParser:
    modes = "; ".join(f"{name}: {meaning}" for name, meaning in MODES.items())
    commands = "; ".join(f"{name}: {meaning}" for name, meaning in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=description,
        epilog=f"commands: {commands}. modes: {modes}",
    )
    add = parser.add_argument
    add("command", nargs="?", choices=COMMANDS, default="table")
    add("--quick", action="store_true", help="smaller sizes, few repeats")
    add("--full", action="store_true", help="also the rows that take minutes")
    add(
        "--only",
        action="append",
        metavar="PATTERN",
        help="rows whose name contains PATTERN (table: or matches it if it has a *); scaling: the "
        "series whose name does, such as cross-over; may be repeated",
    )
    add(
        "--column",
        action="append",
        dest="columns",
        metavar="KEY",
        help="only these columns (memory: among fused, eager, by_hand, checkpoint, chunked)",
    )
    add("--list", action="store_true", help="print the names of the rows and stop")
    add("--json", type=Path, metavar="PATH", help="keep all results, written after every cell")
    add("--resume", action="store_true", help="only measure what the file of --json has not")
    add("--out", type=Path, metavar="PATH", help="scaling, memory: folder of the plots; page: file")
    add("--results", type=Path, default=RESULTS, metavar="PATH", help="page, full: folder of JSON")
    add("--threads", type=int, default=machine.cores(), metavar="N", help="default: the cores")
    add("--device", choices=("cpu", "gpu"), default=mx.default_device().type.name)
    add("--repeats", type=int, default=9, metavar="N", help="samples of a cell")
    add("--slow-repeats", type=int, default=2, metavar="N", help="of calls above 0.5 s")
    add("--budget", type=float, default=12, metavar="S", help="seconds that a cell samples")
    add("--limit", type=float, default=240, metavar="S", help="seconds that one answer may take")
    return parser


if __name__ == "__main__":
    sys.exit(main())
