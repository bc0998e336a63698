"""The definition of every function of metal/activations.h in float64, and what it is where float32
is saturated.
"""

from math import erf, sqrt
from typing import NamedTuple

import numpy as np


class Truth(NamedTuple):
    """Functions of float64 arrays; without a slope for what is no activation."""

    value: callable
    slope: callable = None
    end: float = 9.011  # from here on, at both sides, float32 has the limits:
    values: tuple = (-1, 1)  # at -inf and inf; callable: of the argument
    slopes: tuple = (0, 0)
    grows: tuple = ()  # kinds whose error grows with |z|, as z / ln 2 is rounded
    of_argument: bool = False  # values are a difference of numbers of the argument's size


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def normal_distribution(z):
    return 0.5 * np.vectorize(erf)(z / sqrt(2)) + 0.5


def itself(z):
    return z


def tanh_of(a, b):
    return lambda z: a * np.tanh(b * z), lambda z: a * b / np.cosh(b * z) ** 2


TRUTH = {
    "lecun_tanh": Truth(*tanh_of(1.7159, 0.666), 13.54, (-np.float32(1.7159), np.float32(1.7159))),
    "tanh": Truth(*tanh_of(1.0, 1.0)),
    "relu": Truth(lambda z: np.maximum(z, 0), lambda z: (z > 0) * 1.0, 9.011, (0, itself), (0, 1)),
    "gelu": Truth(
        lambda z: z * normal_distribution(z),
        lambda z: normal_distribution(z) + z * np.exp(-0.5 * z * z) / sqrt(2 * np.pi),
        15.0,
        (0, itself),
        (0, 1),
        of_argument=True,
    ),
    "silu": Truth(
        lambda z: z * sigmoid(z),
        lambda z: sigmoid(z) + z * sigmoid(z) * sigmoid(-z),
        120.0,
        (0, itself),
        (0, 1),
        grows=("value", "slope"),
    ),
    "sigmoid": Truth(sigmoid, lambda z: sigmoid(z) * sigmoid(-z), 120.0, (0, 1), grows=("value",)),
    "exp2": Truth(np.exp2, None, 150.0, (0, np.inf)),
    "logistic": Truth(lambda z: 1 / (1 + np.exp2(z)), None, 150.0, (1, 0), grows=("value",)),
    "erf": Truth(np.vectorize(erf), None, 3.93),
}
