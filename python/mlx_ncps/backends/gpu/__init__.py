"""The operators of the GPU backends, which run the kernels of metal/. The backends differ in how a
kernel is launched, a `Runner`, and in how a call is cut into launches, a `Geometry`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

import mlx.core as mx

from ..types import Facts
from . import cfc, ltc

MIXED_MEMORY: tuple[str, ...] = ()
RESETS: tuple[str, ...] = ("cfc_sequence",)
MASKS: tuple[str, ...] = ("cfc_sequence",)


class Operation(NamedTuple):
    """One operator: `sequence(run, *arguments, **options)` runs it,
    `unsupported(geometry, facts)` says why it can't.
    """

    sequence: Callable[..., mx.array]
    unsupported: Callable[..., str]


OPERATIONS = {
    "ltc_sequence": Operation(ltc.sequence, ltc.unsupported),
    "cfc_sequence": Operation(cfc.sequence, cfc.unsupported),
}


def functions(name: str) -> tuple[Callable[..., Any], ...]:
    """(unsupported, *the functions of OPERATIONS in their order) of the backend that is the module
    `name`; its Runner `run` is looked up at the call.
    """
    module = sys.modules[name]

    def unsupported(op: str, facts: Facts) -> str:
        """Why the kernels can't run this call; "" when they can."""
        return OPERATIONS[op.replace("_mixed_", "_")].unsupported(module.run.geometry, facts)

    def bound(sequence: Callable[..., mx.array]) -> Callable[..., mx.array]:
        @wraps(sequence)
        def call(*arguments, **options):
            return sequence(module.run, *arguments, **options)

        whole = inspect.signature(sequence)
        own = whole.replace(parameters=[*whole.parameters.values()][1:])  # without the Runner
        vars(call)["__signature__"] = own
        return call

    return unsupported, *(bound(operation.sequence) for operation in OPERATIONS.values())
