"""A `Runner` runs the bodies of metal/ through mx.fast.metal_kernel or mx.fast.cuda_kernel, and
makes operators with gradients of them.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import cache, cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import mlx.core as mx

from ... import _loader
from .geometry import Geometry, Launch

_PACKAGE = Path(__file__).parents[2]
_FOLDERS = (_PACKAGE / "metal", _PACKAGE.parent.parent / "metal")  # in a wheel, in the source tree
_HEADERS = ("math.h", "activations.h", "ltc.h", "cfc.h")
_METAL_HEADERS = (*_HEADERS, "matrix.h")
_CUDA_HEADERS = ("cuda.h", *_HEADERS)

# MLX puts a kernel's header directly before `[[kernel]] void`, so that this macro adds an
# attribute: the compiler keeps to the registers that so many threads leave, and a pipeline never
# allows fewer threads than we launch. The body begins by undoing it.
THREADS = (256, 512, 1024)  # bounds: every pipeline may run 256, so fewer make no other kernel
THREADS_BOUND = "#define kernel kernel, max_total_threads_per_threadgroup(THREADS)\n"
_UNBOUND = "#undef kernel\n"
MOST_LAUNCHES = 4096  # that a Runner keeps: made again, they are the same
Names = tuple[str, ...]
Pairs = tuple[tuple[str, int], ...]
NOTHING: Mapping[str, Any] = MappingProxyType({})


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
    return "\n".join(map(text, _CUDA_HEADERS if cuda else _METAL_HEADERS))


class Runner:
    """Launches bodies of metal/ through `register`, mx.fast.metal_kernel or a function like it.

    name: of the backend.  stream: the device or stream of the kernels and of the operations around
    them.  geometry: of its launches, or what gives it when it is needed first.  cuda: whether the
    text is CUDA's.  compiles: whether mx.compile can trace what `register` gives.  any_text:
    whether any text can be registered, those of step programs too.
    """

    def __init__(
        self,
        name: str,
        register: Callable[..., Any],
        stream: mx.Device | mx.DeviceType | mx.Stream,
        geometry: Geometry | Callable[[], Geometry],
        *,
        cuda: bool = False,
        compiles: bool = False,
        any_text: bool = True,
    ):
        self.name, self.register, self.stream = name, register, stream
        self._geometry, self.cuda, self.compiles = geometry, cuda, compiles
        self.any_text = any_text
        self.operators: dict[Any, Any] = {}  # what the modules of operators made, by their keys
        self.wired: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # likewise, by wiring
        self._kernels: dict[tuple, Callable[..., Any]] = {}
        self._launches: dict[tuple, tuple] = {}

    @cached_property
    def geometry(self) -> Geometry:
        """Of its launches."""
        given = self._geometry
        return given if isinstance(given, Geometry) else given()

    def but(self, **changes: Any) -> Runner:
        """A Runner like this one, with another `register`, `stream` or `geometry`."""
        kept = {name: getattr(self, name) for name in ("name", "register", "stream", "geometry")}
        kept |= {"cuda": self.cuda, "compiles": self.compiles, "any_text": self.any_text}
        return Runner(**kept | changes)

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` through mx.compile, where that can trace the kernels. Within a gradient MLX
        runs it as it is.
        """
        return mx.compile(function) if self.compiles else function

    def __call__(
        self,
        stem: str,
        launch: Launch,
        sizes: tuple[int, ...],
        inputs: Mapping[str, mx.array],
        outputs: Mapping[str, tuple[int, ...]],
        *,
        flags: Mapping[str, bool] = NOTHING,
        template: Mapping[str, int] = NOTHING,
        body: str = "",
    ) -> dict[str, mx.array]:
        """Run metal/<stem>.metal, or the step program's kernel `stem` whose text is `body` ->
        {name: float32 array} of `outputs`, which maps names to shapes.

        sizes: the integers of the body's `sizes`.  inputs: {buffer's name: array}.
        flags: {name: bool}, macros of the body.  template: its integer template arguments, before
        those of the launch.
        """
        options: dict[str, Any] = {"flags": flags, "template": template, "body": body}
        ready = self.ready(stem, launch, sizes, inputs, outputs, **options)
        return dict(zip(outputs, ready(*inputs.values()), strict=True))

    def ready(
        self,
        stem: str,
        launch: Launch,
        sizes: tuple[int, ...],
        inputs: Iterable[str],
        outputs: Mapping[str, tuple[int, ...]],
        *,
        flags: Mapping[str, bool] = NOTHING,
        template: Mapping[str, int] = NOTHING,
        body: str = "",
    ) -> Callable[..., list[mx.array]]:
        """The function (arrays of `inputs`) -> arrays of `outputs`, for many equal launches."""
        key = stem, (*inputs,), (*outputs,), (*flags.items(),), launch, (*template.items(),)
        known = self._launches.get(key)
        if known is None:
            if len(self._launches) == MOST_LAUNCHES:  # sequences of many lengths
                self._launches.clear()
            known = self._launches[key] = self._made(*key, body)
        kernel, options = known
        first, shapes = mx.array(sizes, mx.int32), [*outputs.values()]
        stream, mappable = self.stream, _loader.native and _loader.native.mappable

        def ready(*arrays):
            found = kernel(inputs=[first, *arrays], output_shapes=shapes, stream=stream, **options)
            return mappable(list(found)) if mappable else found

        return ready

    def _made(
        self,
        stem: str,
        inputs: Names,
        outputs: Names,
        flags: Pairs,
        launch: Launch,
        template: Pairs,
        body: str,
    ) -> tuple[Callable[..., Any], dict[str, Any]]:
        """(kernel, options of its launch)."""
        arguments = [*template, *launch.template]
        if not self.cuda:
            threads = math.prod(launch.threads)
            arguments.append(("THREADS", next(n for n in THREADS if n >= threads)))
        key = stem, inputs, outputs, flags
        kernel = self._kernels.get(key)
        if kernel is None:
            kernel = self._kernels[key] = self._registered(*key, body)
        return kernel, {
            "template": arguments,
            "grid": launch.grid,
            "threadgroup": launch.threads,
            "output_dtypes": [mx.float32] * len(outputs),
        }

    def _registered(
        self, stem: str, inputs: Names, outputs: Names, flags: Pairs, body: str
    ) -> Callable[..., Any]:
        macros = "".join(f"#define {name} {int(on)}\n" for name, on in flags)
        if body:
            macros = text("program.h") + macros
        return self.register(
            name="_".join(["ncps", stem, *(name.lower() for name, on in flags if on)]),
            input_names=["sizes", *inputs],
            output_names=list(outputs),
            source=("" if self.cuda else _UNBOUND) + (body or text(f"{stem}.metal")),
            header=header(self.cuda) + macros + ("" if self.cuda else THREADS_BOUND),
        )

    def operator(
        self, forward: Callable[..., Iterable[mx.array]], backward: Callable[..., Any]
    ) -> Callable[..., Any]:
        """An operator of positional arrays from forward(*primals) -> arrays and
        backward(primals, cotangents, outputs) -> one gradient per primal.

        It has a gradient and, as a loop, vmap; jvp and second order raise RuntimeError. Make it
        once for all calls.
        """

        def run(*arrays):
            with mx.stream(self.stream):
                return tuple(forward(*arrays))

        op = mx.custom_function(run)
        gradients: dict[tuple[int, int], Any] = {}

        @op.vjp
        def vjp(primals, cotangents, outputs):
            primals, cotangents, outputs = (_tuple(a) for a in (primals, cotangents, outputs))
            counts = len(primals), len(cotangents)
            gradient = gradients.get(counts)
            if gradient is None:
                gradient = gradients[counts] = self._gradient(backward, *counts)
            return gradient(*primals, *cotangents, *outputs)

        op.jvp(self._refuse("jvp"))
        op.vmap(_loop(op))
        return op

    def _gradient(self, backward: Callable[..., Any], n: int, m: int) -> Callable[..., Any]:
        """`backward` as a function of n primals, m cotangents and the outputs; it has vmap."""

        def run(*arrays):
            with mx.stream(self.stream):
                return tuple(backward(arrays[:n], arrays[n : n + m], arrays[n + m :]))

        gradient = mx.custom_function(run)
        gradient.vjp(self._refuse("a gradient of a gradient"))
        gradient.jvp(self._refuse("jvp of a gradient"))
        gradient.vmap(_loop(gradient))
        return gradient

    def _refuse(self, what: str) -> Callable[..., Any]:
        def refuse(*_):
            raise RuntimeError(
                f"[mlx_ncps] the backend {self.name} has no {what}; "
                'use_backend("reference") has every derivative.'
            )

        return refuse


def _tuple(arrays: Any) -> tuple[Any, ...]:
    """MLX hands a single array over bare."""
    return (arrays,) if isinstance(arrays, mx.array) else tuple(arrays)


def _loop(function: Callable[..., Any]) -> Callable[..., Any]:
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
        stacked = tuple(mx.stack(list(parts)) for parts in zip(*results, strict=True))
        return stacked, (0,) * len(stacked)

    return rule
