"""`python -m mlx_ncps`: which backends can run here, why the others can't, and what they run on."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from . import __version__, _loader, dispatch, plans

_VARIABLES = {
    "MLX_NCPS_BACKEND": "backend to use: auto, reference, cpu, metal, metallib, cuda",
    "MLX_NCPS_NUM_THREADS": "threads of the CPU kernels",
    "MLX_NCPS_ISA": "instruction set of the CPU kernels: baseline, avx2, avx512, neon",
    "MLX_NCPS_DISABLE_NATIVE": "1: leave the native module alone",
    "MLX_NCPS_REQUIRE_NATIVE": "1: fail when the native module can't be used",
}


def _status_lines() -> Iterator[str]:
    mlx = mx.__version__  # pyright: ignore[reportAttributeAccessIssue]  its stub lacks it
    yield f"mlx-ncps {__version__}, mlx {mlx}, numpy {np.__version__}"
    yield f"Python {platform.python_version()}, {platform.platform(terse=True)}"
    yield f"default device: {mx.default_device()}"
    yield ""
    yield "backends (* is the one in use)"
    for name, available, reason, chosen in dispatch.describe():
        mark = "*" if chosen else " "
        if not available and reason == _loader.reason:
            reason = "no native module, as said below"
        yield f"{mark} {name:<10} {'yes' if available else 'no':<4} {reason}"
    yield ""
    yield "native module"
    yield from _native_lines()
    yield ""
    yield "environment"
    for name, meaning in _VARIABLES.items():
        value = os.environ.get(name)
        yield f"  {name:<24} {'not set' if value is None else repr(value):<10} {meaning}"


def _native_lines() -> Iterator[str]:
    native = _loader.native
    if native is None:
        yield f"  not available: {_loader.reason}"
        return
    from . import _build_info  # pyright: ignore[reportAttributeAccessIssue]  the build writes it

    metallib = "with" if _build_info.HAS_METALLIB else "without"
    built = f"mlx {_build_info.MLX_VERSION}, nanobind {_build_info.NANOBIND_VERSION}"
    yield f"  built for        {built}"
    yield f"  compiled by      {_build_info.COMPILER}, {metallib} metallib"
    yield f"  instruction set  {native.isa()} (this machine runs {', '.join(native.isas())})"
    yield f"  threads          {native.num_threads()}"


def _version_lines() -> Iterator[str]:
    mlx = mx.__version__  # pyright: ignore[reportAttributeAccessIssue]  its stub lacks it
    yield f"mlx-ncps {__version__}"
    yield f"mlx {mlx}"
    name, runs, reason, _ = next(row for row in dispatch.describe() if row.chosen)
    yield f"backend: {name}" if runs else f"backend: {name}, which can't run here: {reason}"
    kinds = [kind for kind in (mx.cpu, mx.gpu) if mx.is_available(kind)]
    default = mx.default_device().type
    devices = [f"{kind.name}{' (default)' * (kind == default)}" for kind in kinds]
    yield f"devices: {', '.join(devices)}"
    if _loader.native is None:
        yield f"native module: not in use, {_loader.reason}"
        return
    from . import _build_info  # pyright: ignore[reportAttributeAccessIssue]  the build writes it

    yield f"native module: in use, built for mlx {_build_info.MLX_VERSION}"


def version(arguments: argparse.Namespace) -> int:
    """Print the versions, the backend and devices, and whether the native module is in use."""
    print("\n".join(_version_lines()))
    return 0


def status(arguments: argparse.Namespace) -> int:
    """Print what is installed, what runs, and why."""
    print("\n".join(_status_lines()))
    return 0


_SAMPLES = ("cfc", "ltc")  # explained for the sizes of _SAMPLE where nothing is asked
_SAMPLE = ("B32", "T64", "I16", "H32")


def explain(arguments: argparse.Namespace) -> int:
    """Print what a call of this shape would run and why: backend, kernels, launches. Without
    arguments that of two sample calls.
    """
    if arguments.op is not None:
        return _explain_one(arguments)
    sizes = " ".join(_SAMPLE)
    print(f"Two sample calls with {sizes}: 32 sequences of 64 steps, 16 inputs, 32 neurons.")
    print("Name a call for another: python -m mlx_ncps explain ltc B1 T1 I3 H19 --training")
    for op in _SAMPLES:
        print(f"\n{op} {sizes}")
        arguments.op, arguments.sizes = op, _SAMPLE
        if code := _explain_one(arguments):
            return code
    return 0


def _explain_one(arguments: argparse.Namespace) -> int:
    """One call's plan printed -> the exit code."""
    options = {"training": arguments.training}
    try:
        sizes = plans.parse_sizes(arguments.sizes, plans.LETTERS[arguments.op])
        if arguments.op == "ltc":
            lines = plans.explain_ltc(**sizes, **options)
        else:
            lines = plans.explain_cfc(**sizes, mode=arguments.mode, **options)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(lines))
    return 0


def _add_explain(commands: Any) -> None:
    parser = commands.add_parser("explain", help=explain.__doc__)
    parser.set_defaults(run=explain)
    parser.add_argument("op", nargs="?", choices=tuple(plans.LETTERS))
    plans.add_sizes(parser)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; without any, `status`."""
    parser = argparse.ArgumentParser(prog="python -m mlx_ncps", description=__doc__)
    parser.set_defaults(run=status)
    commands = parser.add_subparsers(metavar="command")
    commands.add_parser("status", help=status.__doc__).set_defaults(run=status)
    commands.add_parser("version", help=version.__doc__).set_defaults(run=version)
    _add_explain(commands)
    arguments = parser.parse_args(argv)
    return arguments.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
