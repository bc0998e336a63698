"""Runs the bodies of metal/ through mx.fast.metal_kernel or mx.fast.cuda_kernel, and makes
operators with gradients of them; metal.py and cuda.py own a Runner each, _ltc_kernels.py and
_cfc_kernels.py call it.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import mlx.core as mx

from .. import _loader

_PACKAGE = Path(__file__).parent.parent
_FOLDERS = (_PACKAGE / "metal", _PACKAGE.parent.parent / "metal")  # in a wheel, in the source tree
_HEADERS = ("math.h", "activations.h", "ltc.h", "cfc.h")

# MLX puts a kernel's header directly before `[[kernel]] void`, so that this macro adds an
# attribute: the compiler keeps to the registers that so many threads leave, and a pipeline never
# allows fewer threads than we launch. The body begins by undoing it.
THREADS = (256, 512, 1024)  # bounds: every pipeline may run 256, so fewer make no other kernel
THREADS_BOUND = "#define kernel kernel, max_total_threads_per_threadgroup(THREADS)\n"
_UNBOUND = "#undef kernel\n"


@cache
def text(name: str) -> str:
    """The text of a file of metal/, without `#pragma once`. Raises FileNotFoundError."""
    for folder in _FOLDERS:
        if (folder / name).is_file():
            return (folder / name).read_text(encoding="utf-8").replace("#pragma once\n", "")
    raise FileNotFoundError(f"[mlx_ncps] {name} is in none of {[str(f) for f in _FOLDERS]}.")


@cache
def header(cuda: bool = False) -> str:
    """What stands before every body: the shared scalar maths."""
    return "\n".join(text(name) for name in (("cuda.h",) if cuda else ()) + _HEADERS)


class Runner:
    """Launches bodies of metal/ through `register`, mx.fast.metal_kernel or a function like it.

    stream: the device or stream of the kernels and of the operations around them.
    """

    def __init__(self, name: str, register, stream, *, cuda: bool = False):
        self.name, self.stream = name, stream
        self._register, self._cuda = register, cuda
        self._kernels: dict = {}

    def __call__(self, stem, launch, sizes, inputs, outputs, *, flags=None, **template):
        """Run metal/<stem>.metal -> {name: float32 array} of `outputs`, which maps names to shapes.

        sizes: the integers of the body's `sizes`.  inputs: {buffer's name: array}.
        flags: {name: bool}, macros of the body.  template: its integer template arguments.
        """
        flags = flags or {}
        if not self._cuda:
            template["THREADS"] = next(n for n in THREADS if n >= math.prod(launch.threads))
        key = (stem, tuple(inputs), tuple(outputs), tuple(flags.items()))
        kernel = self._kernels.get(key)
        if kernel is None:
            kernel = self._kernels[key] = self._make(*key)
        arrays = kernel(
            inputs=[mx.array(sizes, mx.int32), *inputs.values()],
            template=list(template.items()),
            grid=launch.grid,
            threadgroup=launch.threads,
            output_shapes=list(outputs.values()),
            output_dtypes=[mx.float32] * len(outputs),
            stream=self.stream,
        )
        if _loader.native is not None:
            arrays = _loader.native.mappable(list(arrays))
        return dict(zip(outputs, arrays, strict=True))

    def _make(self, stem, inputs, outputs, flags):
        macros = "".join(f"#define {name} {int(on)}\n" for name, on in flags)
        return self._register(
            name="_".join(["ncps", stem, *(name.lower() for name, on in flags if on)]),
            input_names=["sizes", *inputs],
            output_names=list(outputs),
            source=("" if self._cuda else _UNBOUND) + text(f"{stem}.metal"),
            header=header(self._cuda) + macros + ("" if self._cuda else THREADS_BOUND),
        )

    def operator(self, forward, backward):
        """An operator of positional arrays from forward(*primals) -> tuple of arrays and
        backward(primals, cotangents, outputs) -> one gradient per primal.

        It has a gradient and, as a loop, vmap; jvp and second order raise RuntimeError.
        """

        def on_stream(function):
            def call(*arrays):
                with mx.stream(self.stream):
                    return tuple(function(*arrays))

            return call

        op = mx.custom_function(on_stream(forward))

        @op.vjp
        def vjp(primals, cotangents, outputs):
            primals, cotangents, outputs = (_tuple(a) for a in (primals, cotangents, outputs))
            n, m = len(primals), len(cotangents)

            def run(*arrays):
                return backward(arrays[:n], arrays[n : n + m], arrays[n + m :])

            gradient = mx.custom_function(on_stream(run))
            gradient.vjp(self._refuse("a gradient of a gradient"))
            gradient.jvp(self._refuse("jvp of a gradient"))
            gradient.vmap(_loop(gradient))
            return gradient(*primals, *cotangents, *outputs)

        op.jvp(self._refuse("jvp"))
        op.vmap(_loop(op))
        return op

    def _refuse(self, what):
        def refuse(*_):
            raise RuntimeError(
                f"[mlx_ncps] the backend {self.name} has no {what}; "
                'use_backend("reference") has every derivative.'
            )

        return refuse


def in_pieces(piece, batch: int, steps: int, state, run):
    """States [B, T, H] from `run(rows, steps, state)`, which gives those of slices of the batch and
    of time; each piece of time starts from the last state of the one before.
    """
    blocks = []
    for b in range(0, batch, piece.rows):
        rows = slice(b, b + piece.rows)
        carried, chunks = state[rows], []
        for t in range(0, steps, piece.steps):
            chunks.append(run(rows, slice(t, t + piece.steps), carried))
            carried = chunks[-1][:, -1]
        blocks.append(_joined(chunks, axis=1))
    return _joined(blocks, axis=0)


def _joined(parts, axis):
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=axis)


def _tuple(arrays) -> tuple:
    """MLX hands a single array over bare."""
    return (arrays,) if isinstance(arrays, mx.array) else tuple(arrays)


def _loop(function):
    """The vmap of `function` as a loop: the gradients of its parameters differ by element."""

    def rule(inputs, axes):
        inputs, axes = _tuple(inputs), axes if isinstance(axes, (tuple, list)) else (axes,)
        mapped = [(x, a) for x, a in zip(inputs, axes, strict=True) if a is not None]
        count = mapped[0][0].shape[mapped[0][1]]
        results = [
            function(
                *(
                    x if a is None else mx.take(x, i, axis=a)
                    for x, a in zip(inputs, axes, strict=True)
                )
            )
            for i in range(count)
        ]
        stacked = tuple(mx.stack(parts) for parts in zip(*results, strict=True))
        return stacked, (0,) * len(stacked)

    return rule
