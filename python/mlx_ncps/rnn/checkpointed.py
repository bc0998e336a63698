"""Gradients in less memory by computing a part again, with the same dropout."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import mlx.nn as nn
from mlx.nn.utils import checkpoint as checkpoint_of

from ..checks import refused
from ..ops.dropout import keys_from, next_key


def checkpoint(module: nn.Module, fn: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """`nn.utils.checkpoint`, whose second computation drops the same units as the first.

    Args:
        module: an `mlx.nn.Module`.
        fn: a function that calls it; None: the module itself.

    Returns fn as a function of the same arguments, arrays and trees of them, that keeps nothing of
    what it computes; a gradient computes it again. Each call draws one key from MLX's random state,
    and the `backbone_dropout` of the layers within it follows from that key; other functions that
    draw, such as `nn.Dropout`, draw anew. Under `mx.compile` name `mx.random.state` among the
    inputs and outputs. Raises ValueError for another module or fn.

    Example:
        >>> layer = CfC(3, 4)
        >>> cheap = checkpoint(layer)
        >>> loss = lambda x: cheap(x)[0].sum()
        >>> mx.grad(loss)(mx.ones((2, 5, 3))).shape
        (2, 5, 3)
    """
    if not isinstance(module, nn.Module):
        raise refused("checkpoint", "module", "an mlx.nn.Module", module)
    if fn is not None and not callable(fn):
        raise refused("checkpoint", "fn", "a function or None", fn)
    run: Callable[..., Any] = module if fn is None else fn

    def from_key(key: Any, *args: Any, **kwargs: Any) -> Any:
        with keys_from(key):
            return run(*args, **kwargs)

    part = checkpoint_of(module, from_key)

    @wraps(run if fn is not None else type(module).__call__)
    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        return part(next_key(), *args, **kwargs)

    return checkpointed
