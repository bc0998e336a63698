"""Bugs of published Metal kernels, each as a small kernel written for this purpose: mended, and as
it was wrong. The text of no other project is here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import mlx.core as mx
import numpy as np

import mslsim

BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);"
PRELUDE = "#include <metal_stdlib>\nusing namespace metal;\n"
NAMES = """
    uint i = thread_position_in_threadgroup.x, g = threadgroup_position_in_grid.x;
    uint lane = thread_index_in_simdgroup, s = simdgroup_index_in_threadgroup;
    (void)i; (void)g; (void)lane; (void)s;
"""


@dataclasses.dataclass(frozen=True)
class Bug:
    """A kernel, and what makes it wrong.

    Attributes:
        project, link: Where the bug was.
        kind: Of what the simulator finds.
        source: The mended kernel: the body of a custom kernel, which has the names of `NAMES` and
            BARRIER, or a whole text whose kernel is `f`.
        wrong: What brings the bug back: a piece of the source and what stood there, or changes of
            the call, as names of these attributes.
        inputs: Arrays by name; outputs: shapes by name, float32.
        expected: The outputs, from the inputs.
        threads, groups: Of the launch; grid: threads in all, groups * threads unless given.
        blocks: Bytes of threadgroup memory by index, for a whole text.
        options: Of mslsim.
    """

    project: str
    link: str
    kind: str
    source: str
    wrong: tuple[str, str] | Mapping
    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, tuple[int, ...]]
    expected: Callable
    threads: int = 64
    groups: int = 1
    grid: int | None = None
    blocks: Mapping[int, int] = dataclasses.field(default_factory=dict)
    options: Mapping = dataclasses.field(default_factory=dict)
    math_mode: str = "safe"

    def broken(self) -> Bug:
        """The same with the bug."""
        if isinstance(self.wrong, Mapping):
            return dataclasses.replace(self, **self.wrong)
        old, new = self.wrong
        if self.source.count(old) != 1:
            raise ValueError(f"[public_bugs] {old!r} occurs {self.source.count(old)} times.")
        return dataclasses.replace(self, source=self.source.replace(old, new))

    def run(self) -> list[np.ndarray]:
        """The outputs. Raises what the simulator finds."""
        source = self.source.replace("BARRIER", BARRIER)
        sizes = ((self.grid or self.groups * self.threads, 1, 1), (self.threads, 1, 1))
        with mslsim.options(**self.options):
            if "kernel void f(" in source:
                return self._run_text(source, *sizes)
            kernel = mslsim.metal_kernel(
                *("public", list(self.inputs), list(self.outputs), NAMES + source),
                header="#include <metal_simdgroup_matrix>\n",
                compile_options={"math_mode": self.math_mode},
            )
            return kernel(
                inputs=list(self.inputs.values()),
                grid=sizes[0],
                threadgroup=sizes[1],
                output_shapes=list(self.outputs.values()),
                output_dtypes=[mx.float32] * len(self.outputs),
            )

    def _run_text(self, source, grid, threadgroup) -> list[np.ndarray]:
        kernel = mslsim.Kernel(PRELUDE + source, "f")
        outputs = {name: np.zeros(shape, np.float32) for name, shape in self.outputs.items()}
        buffers = {name: mslsim.Buffer(a) for name, a in self.inputs.items()}
        buffers |= {n: mslsim.Buffer(a, output=True, initialised=False) for n, a in outputs.items()}
        mslsim.launch(kernel, buffers, grid, threadgroup, threadgroup_memory=self.blocks)
        return list(outputs.values())


def normal(*shape: int) -> np.ndarray:
    """The same numbers for the same shape."""
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


def softmax(x: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)
