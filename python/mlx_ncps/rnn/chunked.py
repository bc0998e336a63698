"""Gradients of a long sequence, chunk by chunk, in the memory of one chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

from ..checks import brief, is_array, refused

OP = "chunked_value_and_grad"


def chunked_value_and_grad(
    model: nn.Module, loss: Callable[..., tuple[mx.array, Any]]
) -> Callable[[Sequence[Sequence[Any]], Any], tuple[mx.array, dict[str, Any], Any]]:
    """The exact gradients of a sum of losses over the chunks of a sequence, in little memory.

    Args:
        model: an `mlx.nn.Module`.
        loss: loss(model, state, ...) -> (scalar, state after the chunk), called with the arrays of
            a chunk; a state is an array or a tree of them.

    Returns a function (chunks, state) -> (sum of the losses, gradients as `nn.value_and_grad` gives
    them, state after the last chunk): `chunks` is a sequence of tuples of arrays, `state` the one
    before the first. The losses of all chunks should be sums (or means divided by the number of
    chunks).

    A first pass keeps the state before each chunk and nothing else; then the chunks are run again
    from the last to the first, each with its gradients, which flow on into the chunk before. So
    it costs one more forward pass and holds what one chunk saves. Each step is evaluated at once:
    it can't be within `mx.compile`. Both passes draw the same random numbers (dropout), from seeds
    that MLX's random state gives. Raises ValueError when there is no chunk.

    Example:
        >>> model = CfC(3, 4)
        >>> def loss(model, state, x):
        ...     output, state = model(x, state)
        ...     return mx.square(output).sum(), state
        >>> x = mx.ones((2, 8, 3))
        >>> step = chunked_value_and_grad(model, loss)
        >>> value, gradients, last = step([(x[:, :4],), (x[:, 4:],)], mx.zeros((2, 4)))
        >>> value.shape, last.shape
        ((), (2, 4))
    """
    if not isinstance(model, nn.Module):
        raise refused(OP, "model", "an mlx.nn.Module", model)
    if not callable(loss):
        raise refused(OP, "loss", "a function loss(model, state, *chunk)", loss)

    def value_and_grad(
        chunks: Sequence[Sequence[Any]], state: Any
    ) -> tuple[mx.array, dict[str, Any], Any]:
        if not isinstance(chunks, (tuple, list)) or not all(
            isinstance(chunk, (tuple, list)) for chunk in chunks
        ):
            raise refused(OP, "chunks", "a sequence of tuples of arrays", chunks)
        if not chunks:
            raise ValueError(f"[{OP}] chunks must hold at least one, got none.")
        model.trainable_parameters()  # of a layer that isn't built: says so
        _check_arrays("state", state)
        seeds: Any = mx.random.randint(0, 2**31 - 1, (len(chunks) + 1,)).tolist()
        starts = [state]
        for seed, chunk in zip(seeds, chunks[:-1], strict=False):
            mx.random.seed(seed)
            starts.append(_checked(loss(model, starts[-1], *chunk))[1])
            mx.eval(starts[-1])
        total: Any = 0.0
        gradients: Any = None
        dtypes: Any = None
        end, cotangent = None, None
        for seed, chunk, start in reversed(list(zip(seeds, chunks, starts, strict=False))):
            mx.random.seed(seed)
            value, after, (new, cotangent) = _one_chunk(model, loss, chunk, start, cotangent)
            total = total + value
            dtypes = tree_map(lambda g: g.dtype, new)
            new = tree_map(lambda g: g.astype(mx.float32), new)  # halves would round every sum
            gradients = new if gradients is None else tree_map(mx.add, gradients, new)
            end = after if end is None else end
            mx.eval(total, gradients, end, cotangent)
        mx.random.seed(seeds[-1])
        return total, tree_map(lambda g, d: g.astype(d), gradients, dtypes), end

    return value_and_grad


def _checked(result: Any) -> tuple:
    """What the loss gave: a scalar and a state."""
    wanted = "loss must give (scalar, state)"
    if not isinstance(result, tuple) or len(result) != 2:
        raise ValueError(f"[{OP}] {wanted}, got {brief(result)}.")
    if not is_array(result[0]) or result[0].ndim:
        raise ValueError(f"[{OP}] {wanted}, got {brief(result[0])} as its scalar.")
    _check_arrays("the state that loss gives", result[1])
    return result


def _check_arrays(name: str, tree: Any) -> None:
    """A state: an array or a tree of them."""
    leaves: Any = tree_flatten(tree)
    for _, leaf in leaves:
        if not is_array(leaf) or not mx.issubdtype(leaf.dtype, mx.floating):
            raise refused(OP, name, "floating arrays or a tree of them", leaf)


def _one_chunk(
    model: nn.Module,
    loss: Callable[..., tuple[mx.array, Any]],
    chunk: Sequence[Any],
    start: Any,
    cotangent: Any,
) -> tuple[mx.array, Any, tuple[Any, Any]]:
    """The loss of a chunk, the state after it, and the gradients of (parameters, state before);
    `cotangent` is the gradient of the state after it, None for zeros.
    """
    parameters = model.trainable_parameters()

    def weighted(parameters: dict[str, Any], start: Any) -> tuple[mx.array, mx.array, Any]:
        model.update(parameters)
        value, end = _checked(loss(model, start, *chunk))
        total = value
        if cotangent is not None:
            pairs: Any = zip(tree_flatten(cotangent), tree_flatten(end), strict=True)
            total = total + sum((d * e).astype(mx.float32).sum() for (_, d), (_, e) in pairs)
        return total, value, end

    (_, value, end), gradients = mx.value_and_grad(weighted, argnums=(0, 1))(parameters, start)
    model.update(parameters)
    return value, end, gradients
