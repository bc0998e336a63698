"""An error in place of a hang in a forked child: MLX's threads don't outlive `os.fork()`, so a
child that computes with MLX would wait for ever.
"""

from __future__ import annotations

import os
import threading

import mlx.core as mx

from . import _loader

_SECONDS = 5.0  # for an answer that takes microseconds

_forked = False  # whether this is a child in which MLX may not run
_dead: bool | None = None  # whether it doesn't; None: unknown


def check_process(op: str) -> None:
    """Raises RuntimeError in a forked child whose parent had computed with MLX before."""
    if _forked:
        _check_child(op)


def _check_child(op: str) -> None:
    global _dead
    if _dead is None:
        _dead = not _answers()
        if not _dead:
            _set_forked(False)
    if _dead:
        raise RuntimeError(
            f"[{op}] can't run in this process: it was forked from one that had computed with "
            "MLX, whose threads don't outlive a fork. Start it with "
            'multiprocessing.get_context("spawn") instead, or fork before MLX is used.'
        )


def _answers() -> bool:
    """Whether MLX's stream has a thread; where the parent had none, the child makes its own."""
    stream = mx.default_stream(mx.default_device())
    asking = threading.Thread(target=mx.synchronize, args=(stream,), daemon=True)
    asking.start()
    asking.join(_SECONDS)
    return not asking.is_alive()


def _set_forked(forked: bool) -> None:
    global _forked, _dead
    _forked, _dead = forked, None
    if _loader.native is not None:
        _loader.native.decline_steps(forked)  # those come here then


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _set_forked(True))
