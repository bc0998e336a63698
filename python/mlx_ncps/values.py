"""What an array stands for: whether it has a value, or is traced by mx.compile, a gradient or
mx.vmap.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from . import _loader
from .checks import is_array

_steps = threading.local()


@contextlib.contextmanager
def step_trace() -> Iterator[None]:
    """While a step program is made: who checks arrays of a call has done so before."""
    before = in_step_trace()
    _steps.traced = True
    try:
        yield
    finally:
        _steps.traced = before


def in_step_trace() -> bool:
    """Whether a step program is made on this thread."""
    return getattr(_steps, "traced", False)


def is_tracing() -> bool:
    """Whether mx.compile, a gradient or mx.vmap traces a function now; False where the native
    module, which alone can tell, is not loaded.
    """
    return _loader.native is not None and _loader.native.is_tracing()


def has_values(array: mx.array) -> bool:
    """Whether an array is of evaluated, row-contiguous float32 numbers; False without the native
    module.
    """
    return _loader.native is not None and _loader.native.has_values(array)


def is_tracer(array: mx.array) -> bool:
    """Whether `array` stands for a value within mx.compile, a gradient or vmap; without the native
    module only whether it has none.
    """
    if _loader.native is not None:
        return _loader.native.is_tracer(array)
    for evaluate in (mx.async_eval, mx.eval):  # the first waits for nothing, but refuses in mx.grad
        try:
            evaluate(array)
        except ValueError:
            continue
        return False
    return True


def lacks_value(array: mx.array) -> bool:
    """Whether `array` can't be evaluated here, as under mx.compile and mx.vmap; without the native
    module also in a gradient.
    """
    if _loader.native is not None:
        return _loader.native.may_lack_values(array)
    return is_tracer(array)


def native(name: str, *arguments: Any) -> float | None:
    """What a function of the native module reads from evaluated arrays; None where it can't, or
    without the module.
    """
    return None if _loader.native is None else getattr(_loader.native, name)(*arguments)


def seen(arrays: list[mx.array]) -> Any:
    """What tells by `are(arrays)` whether all of them are still these, not edited in place either;
    None without the native module.
    """
    return None if _loader.native is None else _loader.native.Seen(arrays)


def with_batch(state: mx.array, batched: bool) -> mx.array:
    """A state [H] as [1, H], or [1, H] as [H] where not `batched`; evaluated if it was."""
    shape = (1, state.shape[-1]) if batched else state.shape[-1:]
    view: Any = None if _loader.native is None else _loader.native.reshaped(state, shape)
    return state.reshape(shape) if view is None else view


def settle(module: nn.Module, *read: Any) -> None:
    """If one of the arrays `read` is a tracer without a value, make every array that a module keeps
    evaluated and row-contiguous: mx.export_function writes constants as they lie in memory.
    """
    lacks_values = _may_lack_values if _loader.native is None else _loader.native.may_lack_values
    if not any(lacks_values(a) for a in read):
        return
    for part in module.modules():
        for key, value in list(part.items()):
            if isinstance(value, mx.array) and not lies_plain(value) and not is_tracer(value):
                plain = mx.contiguous(value)
                mx.eval(plain)
                dict.__setitem__(part, key, plain)


def _may_lack_values(a: Any) -> bool:
    return is_array(a) and is_tracer(a)


def lies_plain(array: mx.array) -> bool:
    """Whether an array is evaluated and row-contiguous; False without the native module too."""
    return _loader.native is not None and _loader.native.lies_plain(array)
