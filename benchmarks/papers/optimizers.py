"""RMSprop and Adam as Keras computes them, which MLX does a little differently: see each class."""

from __future__ import annotations

import mlx.core as mx
import mlx.optimizers as optim


class RMSprop(optim.RMSprop):
    """p <- p - rate g / sqrt(v + eps): eps is added inside the root, so a gradient much smaller
    than sqrt(eps), 3e-4, moves little. MLX adds it outside, where 1e-7 lets every gradient count.
    """

    def __init__(self, learning_rate, alpha: float = 0.9, eps: float = 1e-7):
        super().__init__(learning_rate, alpha, eps)

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict) -> mx.array:
        """One array's step; v is kept in `state`."""
        rate = self.learning_rate.astype(gradient.dtype)
        state["v"] = self.alpha * state["v"] + (1 - self.alpha) * mx.square(gradient)
        return parameter - rate * gradient * mx.rsqrt(state["v"] + self.eps)


class Adam(optim.Adam):
    """p <- p - rate c m / (sqrt(v) + eps), c = sqrt(1 - b2^n) / (1 - b1^n): the bias of v is
    corrected outside the sum with eps. MLX corrects it inside, so its eps is smaller at first.
    """

    def __init__(self, learning_rate, eps: float = 1e-7):
        super().__init__(learning_rate, eps=eps, bias_correction=True)

    def apply_single(self, gradient: mx.array, parameter: mx.array, state: dict) -> mx.array:
        """One array's step; m and v are kept in `state`."""
        b1, b2 = self.betas
        state["m"] = b1 * state["m"] + (1 - b1) * gradient
        state["v"] = b2 * state["v"] + (1 - b2) * mx.square(gradient)
        correction = mx.sqrt(1 - b2**self.step) / (1 - b1**self.step)
        rate = (self.learning_rate * correction).astype(gradient.dtype)
        return parameter - rate * state["m"] / (mx.sqrt(state["v"]) + self.eps)
