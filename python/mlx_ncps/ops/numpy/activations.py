"""The scalar functions of both models and their derivatives, stable over all of float64."""

from __future__ import annotations

from collections.abc import Callable
from math import erf, pi, sqrt
from typing import Any

import numpy as np

from .arrays import Numbers, numbers
from .checks import choice

__all__ = [
    "ACTIVATIONS",
    "gelu",
    "get_activation",
    "lecun_tanh",
    "relu",
    "sigmoid",
    "silu",
    "softplus",
    "tanh",
]

_erf = np.frompyfunc(erf, 1, 1)


def sigmoid(x: Numbers) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow for large |x|."""
    x = numbers(x)
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, e) / (1.0 + e)


def softplus(x: Numbers) -> np.ndarray:
    """log(1 + exp(x)), without overflow: the constraint of LTC's implicit parameters."""
    return np.logaddexp(0.0, numbers(x))


def tanh(x: Numbers) -> np.ndarray:
    """The hyperbolic tangent."""
    return np.tanh(numbers(x))


def lecun_tanh(x: Numbers) -> np.ndarray:
    """1.7159 tanh(0.666 x): ncps' constant is 0.666, not LeCun's 2/3."""
    return 1.7159 * tanh(0.666 * numbers(x))


def relu(x: Numbers) -> np.ndarray:
    """max(x, 0); NaN stays NaN."""
    return np.maximum(numbers(x), 0.0)


def gelu(x: Numbers) -> np.ndarray:
    """The Gaussian unit x Phi(x), Phi the exact normal distribution (erf, not a tanh fit)."""
    x = numbers(x)
    return x * _normal_cdf(x)


def silu(x: Numbers) -> np.ndarray:
    """The sigmoid unit x sigmoid(x)."""
    return numbers(x) * sigmoid(x)


def _normal_cdf(x: Numbers) -> np.ndarray:
    return 0.5 * (1.0 + np.asarray(_erf(x / sqrt(2.0)), dtype=np.float64))


def _gelu_derivative(x: Numbers) -> np.ndarray:
    return _normal_cdf(x) + x * np.exp(-0.5 * x * x) / sqrt(2.0 * pi)


def _silu_derivative(x: Numbers) -> np.ndarray:
    s = sigmoid(x)
    return s * (1.0 + x * (1.0 - s))


def _sigmoid_derivative(x: Numbers) -> np.ndarray:
    return sigmoid(x) * sigmoid(-x)


_FUNCTIONS = {  # name: (function, derivative)
    "lecun_tanh": (lecun_tanh, lambda x: 1.7159 * 0.666 * (1.0 - np.tanh(0.666 * x) ** 2)),
    "tanh": (tanh, lambda x: 1.0 - np.tanh(x) ** 2),
    "relu": (relu, lambda x: np.where(x > 0, 1.0, np.where(x <= 0, 0.0, np.nan))),
    "gelu": (gelu, _gelu_derivative),
    "silu": (silu, _silu_derivative),
    "sigmoid": (sigmoid, _sigmoid_derivative),
}
ACTIVATIONS = tuple(_FUNCTIONS)


def _find(name: Any) -> Any:
    return _FUNCTIONS[choice("activations", "activation", name, ACTIVATIONS)]


def get_activation(name: str) -> Callable[[Any], Any]:
    """The activation function called ``name``; ValueError when there is none."""
    return _find(name)[0]


def get_activation_derivative(name: str) -> Callable[[Any], Any]:
    """The derivative of the activation called ``name``, a function of the same argument."""
    return _find(name)[1]
