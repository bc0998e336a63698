#!/usr/bin/env python3
"""Counts what a reader walks through to follow one call: the Python functions of the package that
it enters, their files, how often it goes over into another file, and how deep it gets.

    python -m tools.walk                      # the table, in Markdown
    python -m tools.walk --only ltc --trace   # each function on its way, indented by depth

frames: functions and methods of mlx_ncps entered, each time again. Comprehensions and generator
expressions belong to the function that they stand in, and what lies between two functions of the
package (MLX, NumPy, the standard library) is not seen: the callee's caller is then the nearest
function of the package.
files: of mlx_ncps, with at least one such function.
changes of file: calls from a function in one file to a function in another. The return of each
comes back, which would count each change twice.
depth: the most functions of the package that are in progress at one time.

Every call is the second one: weights are drawn, parameters packed, kernels looked up. On a GPU the
launches are those of Metal and their results zeros, so that no GPU and no simulator is needed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx_ncps
from mlx_ncps import LTC, CfC, use_backend
from mlx_ncps.backends import metal
from mlx_ncps.wirings import AutoNCP

PACKAGE = str(Path(mlx_ncps.__file__).parent) + "/"
UNNAMED = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")
SMALL, LARGE = (8, 20, 16), (64, 512, 16)  # [B, T, I], below and above what is computed at once


@dataclass
class Walk:
    """The functions of one call in order: (depth, file, function)."""

    steps: list[tuple[int, str, str]] = field(default_factory=list)
    changes: int = 0

    @property
    def files(self) -> set[str]:
        """The files that hold them."""
        return {file for _, file, _ in self.steps}

    @property
    def depth(self) -> int:
        """The greatest depth, 1 for a call that enters one function."""
        return max((depth for depth, _, _ in self.steps), default=0)

    def row(self, name: str) -> str:
        """A line of the Markdown table."""
        return f"| {name} | {len(self.steps)} | {len(self.files)} | {self.changes} | {self.depth} |"


def walk(call: Callable[[], object]) -> Walk:
    """The Walk of one call, as the interpreter's profiler sees it."""
    found, stack = Walk(), []

    def see(frame, event, _):
        code = frame.f_code
        if event not in ("call", "return") or not code.co_filename.startswith(PACKAGE):
            return
        if code.co_name in UNNAMED:
            return
        if event == "return":
            stack.pop()
            return
        file = code.co_filename.removeprefix(PACKAGE)
        found.changes += bool(stack) and stack[-1] != file
        stack.append(file)
        found.steps.append((len(stack), file, getattr(code, "co_qualname", code.co_name)))

    sys.setprofile(see)
    try:
        call()
    finally:
        sys.setprofile(None)
    return found


# --- the calls ---


def evaluated(*shape: int) -> mx.array:
    """Random numbers that exist."""
    array = mx.random.normal(shape)
    mx.eval(array)
    return array


def lazy(*shape: int) -> mx.array:
    """Random numbers that nobody has asked for."""
    return mx.random.normal(shape)


def layers(inputs: int) -> dict[str, nn.Module]:
    """The layers that are called, with weights that exist."""
    made = {
        "CfC": CfC(inputs, 32),
        "CfC wired": CfC(inputs, AutoNCP(32, 4)),
        "LTC": LTC(inputs, 32),
        "LTC wired": LTC(inputs, AutoNCP(32, 4)),
    }
    mx.eval([layer.parameters() for layer in made.values()])
    return made


def gradient_of(layer: nn.Module, x: mx.array) -> Callable[[], object]:
    """The gradient of a sequence call for the parameters."""
    function = nn.value_and_grad(layer, lambda x: layer(x)[0].sum())
    return lambda: function(x)


def calls() -> Iterator[tuple[str, str, Callable[[], object]]]:
    """(name, backend, call) of each row."""
    x, large, inputs = evaluated(*SMALL), evaluated(*LARGE), SMALL[-1]
    step = evaluated(SMALL[0], inputs)
    for name, layer in layers(inputs).items():
        yield f"`{name}(x)`, CPU, at once", "auto", lambda layer=layer: layer(x)
        yield (
            f"`{name}(x)`, CPU, in a graph: x lazy",
            "auto",
            lambda layer=layer: layer(lazy(*SMALL)),
        )
        yield f"`{name}(x)`, CPU, in a graph: x large", "auto", lambda layer=layer: layer(large)
        yield f"`{name}(x)`, CPU, gradient", "auto", gradient_of(layer, x)
        yield f"`{name}.step(x)`, CPU, at once", "auto", lambda layer=layer: layer.step(step)
    for name, layer in layers(inputs).items():
        yield f"`{name}(x)`, Metal", "metal", lambda layer=layer: layer(x)
        yield f"`{name}(x)`, Metal, gradient", "metal", gradient_of(layer, x)


def pretend_metal() -> None:
    """The backend metal without a GPU: every launch gives zeros."""

    def register(**_):
        def launch(*, output_shapes, output_dtypes, **_):
            return [mx.zeros(s, d) for s, d in zip(output_shapes, output_dtypes, strict=True)]

        return launch

    metal.run = metal.run.but(register=register, stream=mx.cpu)
    metal.available = lambda: (True, "launches that give zeros")


def main(argv: list[str] | None = None) -> int:
    """Print the table, or with --trace the functions of each call."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="rows whose name has this text in it")
    parser.add_argument("--trace", action="store_true", help="print each function on its way")
    options = parser.parse_args(argv)
    mx.set_default_device(mx.cpu)
    pretend_metal()
    if not options.trace:
        print("| call | frames | files | changes of file | depth |\n|---|---|---|---|---|")
    for name, backend, call in calls():
        if options.only.lower() not in name.lower():
            continue
        with use_backend(backend):
            call()
            found = walk(call)
        if not options.trace:
            print(found.row(name))
            continue
        print(f"\n{found.row(name)}")
        for depth, file, function in found.steps:
            print(f"{'  ' * depth}{file}:{function}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
