"""Gradients of a long sequence, chunk by chunk, in the memory of one chunk; users call it."""

from __future__ import annotations

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map


def chunked_value_and_grad(model, loss):
    """The exact gradients of a sum of losses over the chunks of a sequence, in little memory.

    model: an `mlx.nn.Module`.  loss(model, state, *chunk) -> (scalar, state after the chunk); a
    state is an array or a tree of them.

    Returns a function (chunks, state) -> (sum of the losses, gradients as `nn.value_and_grad` gives
    them, state after the last chunk): `chunks` is a sequence of tuples of arrays, `state` the one
    before the first. The losses of all chunks should be sums (or means divided by the number of
    chunks).

    A first pass keeps the state before each chunk and nothing else; then the chunks are run again
    from the last to the first, each with its gradients, which flow on into the chunk before. So
    it costs one more forward pass and holds what one chunk saves. Each step is evaluated at once:
    it can't be within `mx.compile`. Both passes draw the same random numbers (dropout), from seeds
    that MLX's random state gives. Raises ValueError when there is no chunk.
    """

    def value_and_grad(chunks, state):
        chunks = list(chunks)
        if not chunks:
            raise ValueError("[chunked_value_and_grad] chunks must hold at least one, got none.")
        seeds = mx.random.randint(0, 2**31 - 1, (len(chunks) + 1,)).tolist()
        starts = [state]
        for seed, chunk in zip(seeds, chunks[:-1], strict=False):
            mx.random.seed(seed)
            starts.append(loss(model, starts[-1], *chunk)[1])
            mx.eval(starts[-1])
        total, gradients, end, cotangent = 0.0, None, None, None
        for seed, chunk, start in reversed(list(zip(seeds, chunks, starts, strict=False))):
            mx.random.seed(seed)
            value, after, (new, cotangent) = _one_chunk(model, loss, chunk, start, cotangent)
            total = total + value
            gradients = new if gradients is None else tree_map(mx.add, gradients, new)
            end = after if end is None else end
            mx.eval(total, gradients, end, cotangent)
        mx.random.seed(seeds[-1])
        return total, gradients, end

    return value_and_grad


def _one_chunk(model, loss, chunk, start, cotangent):
    """The loss of a chunk, the state after it, and the gradients of (parameters, state before);
    `cotangent` is the gradient of the state after it, None for zeros.
    """
    parameters = model.trainable_parameters()

    def weighted(parameters, start):
        model.update(parameters)
        value, end = loss(model, start, *chunk)
        total = value
        if cotangent is not None:
            pairs = zip(tree_flatten(cotangent), tree_flatten(end), strict=True)
            total = total + sum((d * e).astype(mx.float32).sum() for (_, d), (_, e) in pairs)
        return total, value, end

    (_, value, end), gradients = mx.value_and_grad(weighted, argnums=(0, 1))(parameters, start)
    model.update(parameters)
    return value, end, gradients
