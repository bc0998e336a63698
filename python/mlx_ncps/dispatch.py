"""Chooses the backend of every fused call, in the one function `_decide`.

`auto` takes the first of `HOMES` that lives on the default device and can run the call. Beside an
Apple GPU, whose memory the CPU shares and whose streams MLX orders with the CPU's without Python
waiting, it passes over a GPU backend where the CPU's kernels do better (`_worse_than_cpu`). Which
calls are computed at once, without a graph, is said by `left_to_graph` in csrc/at_once.cpp.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

import mlx.core as mx

from . import _loader
from ._fork import check_process
from .backends import (
    HOMES,
    Backend,
    CfCFacts,  # noqa: F401  for cells and layers
    Facts,
    FusedCall,
    LTCFacts,  # noqa: F401  for cells and layers
    backend,
)
from .checks import brief

_VARIABLE = "MLX_NCPS_BACKEND"

_lock = threading.Lock()
_process: list = []  # calls of use_backend, but those entered as a context manager; the last counts
_environment = os.environ.get(_VARIABLE) or "auto"
_context: ContextVar[str | None] = ContextVar("mlx_ncps_backend", default=None)
_last = threading.local()


@dataclass(frozen=True)
class Choice:
    """What a call would run: `backend` (its name), `reason`, and `error`: "" or why a forced
    backend can't run.
    """

    backend: str
    reason: str
    error: str = ""

    def __str__(self) -> str:
        return f"{self.backend}: {self.error or self.reason}"


class BackendStatus(NamedTuple):
    """One row of `describe()`."""

    name: str
    available: bool
    reason: str
    chosen: bool


class use_backend:
    """Use the backend `name` from now on, in the whole process: `use_backend("reference")`;
    or for a block, in this thread alone: `with use_backend("reference"): ...`.

    Args:
        name: "auto" (the fastest that can run on the default device), "reference", "cpu", "metal",
            "metallib" (the kernels of "metal", compiled ahead of time) or "cuda". The innermost
            block wins, then the last call, then the environment's MLX_NCPS_BACKEND, then "auto".

    Raises ValueError for another name, RuntimeError when that backend can't run here.

    Example:
        >>> layer, x = CfC(3, 4), mx.ones((2, 5, 3))
        >>> with use_backend("reference"):  # to compare with the fastest
        ...     plain, _ = layer(x)
        >>> mx.allclose(layer(x)[0], plain, atol=1e-5).item()
        True
    """

    def __init__(self, name: str):
        _check_name(name, "use_backend")
        if name != "auto":
            _, error = _availability(name)
            if error:
                raise RuntimeError(f"[use_backend] the backend {name} can't run here: {error}")
        self.name = name
        self._tokens: list = []
        with _lock:
            _process.append(self)
            del _process[:-64]  # older calls no longer count

    def __enter__(self) -> use_backend:
        with _lock:
            if self in _process:
                _process.remove(self)
        self._tokens.append(_context.set(self.name))
        return self

    def __exit__(self, *_: object) -> None:
        _context.reset(self._tokens.pop())


def selected_backend() -> str:
    """The name that is asked for in this thread now: "auto" or a backend's."""
    return _selected()[0]


def available_backends() -> list[str]:
    """The names of the backends that can run here, in the order of preference.

    Example:
        >>> available_backends()[-1]  # MLX's own operations, which run anywhere
        'reference'
    """
    return [name for name in HOMES if backend(name).available()[0]]


def last_backend() -> str | None:
    """The name of the backend that this thread's latest call ran (under mx.compile: was traced
    with), or None.

    Example:
        >>> with use_backend("reference"):
        ...     output, _ = CfC(3, 4)(mx.ones((2, 5, 3)))
        >>> last_backend()
        'reference'
    """
    return getattr(_last, "name", None)


def describe() -> list[BackendStatus]:
    """Every backend: name, whether it can run here, why or why not, and whether it is the one
    chosen now.

    Example:
        >>> [status.name for status in describe() if status.name == "reference"]
        ['reference']
    """
    chosen = explain(None)
    rows = []
    for name in HOMES:
        module, error = _availability(name)
        reason = error or module.available()[1]
        rows.append(BackendStatus(name, not error, reason, name == chosen.backend))
    return rows


def explain(op: str | None, facts: Facts | None = None, *, stepwise: bool = False) -> Choice:
    """What a call of `op` with these facts would run, and why; raises for no backend.
    stepwise: a call that a layer makes at every step, between operations of MLX.
    """
    return _decide(op, facts, stepwise)[1]


def launch_count(choice: Choice, facts: Facts) -> int | None:
    """How many kernels a call with this choice launches on a GPU, in training for the gradient too;
    None where it runs on none, or where too many steps take long to count.
    """
    module, _ = _availability(choice.backend)
    run = getattr(module, "run", None)  # of a GPU's backend
    if run is None or choice.error:
        return None
    from .backends.gpu.trace import launch_count as counted  # late, as the backends of GPUs

    return counted(facts, run.geometry)


def choose(op: str, facts: Facts) -> Backend:
    """The backend module for this call. Raises RuntimeError when a forced backend can't run it."""
    check_process(op)
    module, choice = _decide(op, facts)
    if choice.error:
        raise RuntimeError(f"[{op}] {choice.error}")
    _last.name = choice.backend
    return module


def runs_steps_on_cpu() -> bool:
    """Whether single steps and short sequences that nothing traces run on the CPU now, at once:
    asked for by name, or under `auto`, also when the default device is Apple's GPU, whose
    synchronisation alone takes longer and which shares its memory.
    """
    name = _selected()[0]
    if name != "auto" and name != "cpu":  # quicker than a tuple: each step of a stream comes here
        return False
    if name == "auto" and _has_cuda() and mx.default_device().type != mx.DeviceType.cpu:
        return False
    return _loader.native is not None


def why_no_steps_on_cpu() -> str:
    """Why `runs_steps_on_cpu` says no; "" when it says yes."""
    if runs_steps_on_cpu():
        return ""
    name, origin = _selected()
    if name not in ("auto", "cpu"):
        return f"the backend {name} is asked for by {origin}"
    return _availability("cpu")[1] or "the default device is a GPU with memory of its own"


def beside_gpu() -> bool:
    """Whether large calls are better left to the default device, a GPU: under `auto` alone."""
    return _selected()[0] == "auto" and mx.default_device().type == mx.DeviceType.gpu


def stream_of_steps(calls: list[FusedCall]) -> contextlib.AbstractContextManager:
    """A context for a layer that makes these `calls`, (op, facts) each, at every step: the CPU's
    stream where `explain` with stepwise=True says cpu for all of them, else no other than now.
    """
    chosen = [_decide(op, facts, True)[1].backend for op, facts in calls]
    if chosen and set(chosen) == {"cpu"} and beside_gpu():
        return mx.stream(mx.cpu)
    return contextlib.nullcontext()


_has_cuda = functools.cache(mx.cuda.is_available)


def record(backend: str) -> None:
    """Note the backend that ran, for `last_backend`."""
    _last.name = backend


def _decide(op: str | None, facts: Facts | None, stepwise: bool = False) -> tuple[Any, Choice]:
    """(module or None, Choice) for one call; op None leaves what a backend says on single calls
    aside.
    """
    name, origin = _selected()
    if name != "auto":
        module, why = _availability(name)
        error = f"the backend {name} can't run here: {why}" if why else ""
        if not error and op is not None:
            why = module.unsupported(op, facts)
            error = f"the backend {name} can't run this call: {why}" if why else ""
        if error:
            cure = f"unset {_VARIABLE}" if origin == _VARIABLE else 'use_backend("auto")'
            error = f"{error} (asked for by {origin}; {cure} lets another run.)"
        return module, Choice(name, f"asked for by {origin}", error)
    device = "gpu" if mx.default_device().type == mx.DeviceType.gpu else "cpu"
    shared = device == "gpu" and _cpu_shares_memory(op, facts)
    passed = []
    for name, home in HOMES.items():
        beside = shared and home == "cpu"
        if home not in (device, "any") and not beside:
            continue
        module = backend(name)
        why = _refusal(module, op, facts)
        if not why and shared and home == "gpu":
            why = _worse_than_cpu(module, op, stepwise)
        if not why:
            first = _BESIDE if beside else f"chosen for the default device ({device})"
            return module, Choice(name, "; ".join([*passed, first]))
        passed.append(f"not {name}: {why}")
    raise AssertionError("the backend reference runs everything")


_BESIDE = "the CPU's kernel does it in one call, in the memory that the GPU shares"


def _refusal(module: Any, op: str | None, facts: Facts | None) -> str:
    """Why a backend can't run a call; "" when it can."""
    runs, why = module.available()
    if not runs:
        return why or "no reason is known"
    return module.unsupported(op, facts) if op is not None else ""


def _cpu_shares_memory(op: str | None, facts: Facts | None) -> bool:
    """Whether this is an Apple GPU beside CPU kernels that can run the call."""
    if op is None or _availability("metal")[1]:
        return False
    module, why = _availability("cpu")
    return not (why or module.unsupported(op, facts))


def _worse_than_cpu(module: Any, op: str | None, stepwise: bool) -> str:
    """Why a backend of an Apple GPU, which can run a call, leaves it to the CPU's kernel; or ""."""
    if op is not None and "_mixed_" in op and op.replace("_mixed_", "_") not in module.MIXED_MEMORY:
        return "it has no kernel of the LSTM in front of the cell, and would launch each step alone"
    return "each step would be launches of its own" if stepwise else ""


def _selected() -> tuple[str, str]:
    """(name, who asked for it)."""
    name = _context.get()
    if name is not None:
        return name, "use_backend"
    last = _process[-1:]  # at once, as the list may change
    if last:
        return last[0].name, "use_backend"
    if _environment == "auto":
        return "auto", "default"
    _check_name(_environment, _VARIABLE)
    return _environment, _VARIABLE


def _check_name(name: Any, origin: str) -> None:
    if not isinstance(name, str) or name not in ("auto", *HOMES):
        wanted = ", ".join(("auto", *HOMES))
        raise ValueError(f"[{origin}] the backend must be one of {wanted}, got {brief(name)}.")


def _availability(name: str) -> tuple[Any, str]:
    """(module, "" or why it can't run here)."""
    module = backend(name)
    runs, reason = module.available()
    return module, "" if runs else reason or "no reason is known"
