"""What `mx.export_function` tells of a step."""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx


class Operation(NamedTuple):
    """One operation of a trace: arguments of the primitive, (name, shape, dtype) of its arrays."""

    primitive: str
    arguments: list
    inputs: list[tuple[str, tuple[int, ...], mx.Dtype]]
    outputs: list[tuple[str, tuple[int, ...], mx.Dtype]]


class Trace(NamedTuple):
    """A traced step: names of its inputs and outputs, its constants, and its operations."""

    inputs: list[str]
    outputs: list[str]
    constants: list[tuple[str, mx.array]]
    operations: list[Operation]
