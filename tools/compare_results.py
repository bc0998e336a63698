#!/usr/bin/env python3
"""Saves what the package computes, and compares it bit for bit with what it computes later.

    python -m tools.compare_results save DIR            # before a change
    python -m tools.compare_results compare DIR         # after it; 1 when a number differs
    python -m tools.compare_results compare DIR --quick # a sample, in a minute

result_operators.py and result_layers.py have what is computed: the table of cases of the tests
through every operator, and layers of every kind in every way to call them. Backends: reference, cpu
with each instruction set of this machine, and metal in the simulator, a sample. DIR holds a .npz of
each, of bits: NaN and the sign of a zero count. An entry that raises has its message as result.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import mlx_ncps
import numpy as np
from mlx.utils import tree_flatten
from mlx_ncps.backends import metal

from tools import result_layers, result_operators
from tools.result_operators import operators

QUICK = 8  # one entry of so many
METAL_CASES, METAL_LAYERS = 8, 24  # the same for the simulator's sample
SHOWN = 40  # differences of each file


@contextlib.contextmanager
def instruction_set(name: str) -> Iterator[None]:
    """The backend auto on the CPU, with kernels of one instruction set and two threads."""
    before = mlx_ncps.get_instruction_set(), mlx_ncps.get_num_threads()
    mlx_ncps.set_instruction_set(name)
    mlx_ncps.set_num_threads(2)
    try:
        with mlx_ncps.use_backend("auto"):
            yield
    finally:
        mlx_ncps.set_instruction_set(before[0])
        mlx_ncps.set_num_threads(before[1])


@contextlib.contextmanager
def simulator() -> Iterator[None]:
    """The backend metal in the simulator."""
    import mslsim

    before = metal.run, metal.available
    metal.run = metal.run.but(register=mslsim.metal_kernel, stream=mx.cpu)
    metal.available = lambda: (True, "simulated")
    try:
        with mslsim.options(mode="fast", lint=False), mlx_ncps.use_backend("metal"):
            yield
    finally:
        metal.run, metal.available = before


def backends() -> Iterator[tuple[str, object, list]]:
    """(name of the file, context, entries) of each backend."""
    layers = list(result_layers.layers())
    curated = [*result_operators.EDGES, *result_operators.table()]
    solvers = list(operators(result_operators.with_solvers()))
    yield "reference", mlx_ncps.use_backend("reference"), solvers + layers
    mixed = list(operators(curated, mixed=True))
    for isa in mlx_ncps.instruction_sets():
        yield f"cpu-{isa}", instruction_set(isa), mixed + layers
    sample = list(operators(result_operators.table()))[::METAL_CASES] + layers[::METAL_LAYERS]
    yield "metal", simulator(), [*operators(result_operators.EDGES), *sample]


def bits(array: mx.array) -> np.ndarray:
    """The bits of an array as unsigned integers of its width."""
    unsigned = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32, 8: mx.uint64}[array.itemsize]
    plain = array.astype(mx.uint8) if array.dtype == mx.bool_ else array
    return np.array(plain if plain.size == 0 else mx.contiguous(plain).view(unsigned))


def compute(entry) -> dict[str, np.ndarray]:
    """{leaf:dtype: bits} of an entry."""
    try:
        tree = entry()
        leaves = [(n, a) for n, a in tree_flatten(tree) if isinstance(a, mx.array)]
        mx.eval([a for _, a in leaves])
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        return {"raised": np.frombuffer(text.encode(), np.uint8)}
    return {f"{name}:{str(a.dtype).rpartition('.')[2]}": bits(a) for name, a in leaves}


def results(context, found, part) -> dict[str, np.ndarray]:
    """{entry|leaf: bits} of one backend."""
    arrays = {}
    with context:
        for name, entry in found[::part]:
            for leaf, value in compute(entry).items():
                arrays[f"{name}|{leaf}"] = value
    return arrays


def differences(before: dict, now: dict, *, part: int) -> list[str]:
    """A line for each array that is not the same bits, or only on one side."""
    lines = []
    for key in sorted({*before, *now}):
        if key not in before:
            lines.append(f"{key}: new")
        elif key not in now:
            if part == 1:
                lines.append(f"{key}: gone")
        elif before[key].shape != now[key].shape:
            lines.append(f"{key}: shape {now[key].shape}, was {before[key].shape}")
        elif not np.array_equal(before[key], now[key]):
            lines.append(f"{key}: {_how_far(key, before[key], now[key])}")
    return lines


def _how_far(key, before, now) -> str:
    if key.endswith("|raised"):
        return f"{now.tobytes().decode()!r}, was {before.tobytes().decode()!r}"
    count = f"{np.count_nonzero(before != now)} of {now.size} differ"
    if not key.endswith(":float32"):
        return count
    with np.errstate(invalid="ignore", over="ignore"):
        gap = np.abs(before.view(np.float32) - now.view(np.float32))
    return f"{count}, by up to {np.max(gap):.3g}"


def main(argv: list[str] | None = None) -> int:
    """0, or 1 when something differs from what was saved."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["save", "compare"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true", help=f"one entry of {QUICK}")
    parser.add_argument("--only", default="", help="backends whose name begins so")
    options = parser.parse_args(argv)
    mx.set_default_device(mx.cpu)
    options.folder.mkdir(parents=True, exist_ok=True)
    part, failed = QUICK if options.quick else 1, False
    for name, context, found in backends():
        if not name.startswith(options.only):
            continue
        path, start = options.folder / f"{name}.npz", time.perf_counter()
        arrays = results(context, found, part)
        raised = sum(key.endswith("|raised") for key in arrays)
        size = sum(a.nbytes for a in arrays.values()) / 1e6
        print(
            f"{name}: {len(found[::part])} entries, {raised} raise, {len(arrays)} arrays, "
            f"{size:.0f} MB, {time.perf_counter() - start:.0f} s",
            flush=True,
        )
        if options.action == "save":
            np.savez(path, **arrays)
            continue
        with np.load(path) as stored:
            lines = differences(dict(stored), arrays, part=part)
        failed |= bool(lines)
        print("\n".join(f"  {line}" for line in lines[:SHOWN]) or "  the same bits")
        if len(lines) > SHOWN:
            print(f"  and {len(lines) - SHOWN} more")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
