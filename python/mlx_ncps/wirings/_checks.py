"""Argument checks of the wirings: each returns a plain value, or raises a ValueError that names
op, wanted and given.
"""

import numbers
import operator


def integer(op, name, value, low, high=None):
    """``value`` as an int in ``[low, high)``; ``high=None`` leaves the top open."""
    wanted = f"an integer >= {low}" if high is None else f"an integer in [{low}, {high})"
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    too_high = high is not None and number is not None and number >= high
    if number is None or isinstance(value, bool) or number < low or too_high:
        raise ValueError(f"[{op}] {name} must be {wanted}, got {value!r}.")
    return number


def at_most(op, name, value, limit_name, limit):
    """``value``, once it is known not to exceed ``limit``."""
    if value > limit:
        raise ValueError(f"[{op}] {name} must be at most {limit_name} = {limit}, got {value}.")
    return value


def share(op, name, value, low, high, *, open_end=False):
    """``value`` as a float in ``[low, high]``, without ``high`` itself when ``open_end``."""
    fits = isinstance(value, numbers.Real) and low <= value <= high
    if not fits or (open_end and value == high):
        wanted = f"[{low}, {high}" + (")" if open_end else "]")
        raise ValueError(f"[{op}] {name} must be in {wanted}, got {value!r}.")
    return float(value)


def polarity(op, value):
    """``value`` as -1 (inhibitory) or +1 (excitatory)."""
    if value not in (-1, 1):
        raise ValueError(f"[{op}] polarity must be -1 or +1, got {value!r}.")
    return int(value)
