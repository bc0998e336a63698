"""Random numbers of test modules, the same for a test whatever ran before it."""

import numpy as np

_made: list[np.random.Generator] = []
_states: list[dict] = []  # of those before the first test, when their modules were imported


def generator(seed: int) -> np.random.Generator:
    """A generator for a module's tests, which `start_anew` sets back."""
    _made.append(np.random.default_rng(seed))
    return _made[-1]


def start_anew() -> None:
    """Every generator is as it was before the first test; conftest.py calls it before each."""
    _states.extend(made.bit_generator.state for made in _made[len(_states) :])
    for made, state in zip(_made, _states, strict=True):
        made.bit_generator.state = state
