"""Argument checks of the wirings: each returns a plain value, or raises a ValueError that names
op, wanted and given.
"""

import numbers

from ..checks import flag, integer, real, refused

__all__ = ["at_most", "flag", "integer", "polarity", "real", "refused", "seed"]


def at_most(op, name, value, limit_name, limit):
    """``value``, once it is known not to exceed ``limit``."""
    if value > limit:
        raise ValueError(f"[{op}] {name} must be at most {limit_name} = {limit}, got {value}.")
    return value


def polarity(op, value):
    """``value`` as -1 (inhibitory) or +1 (excitatory)."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or value not in (-1, 1):
        raise refused(op, "polarity", "-1 or +1", value)
    return int(value)


def seed(op, name, value):
    """``value`` as a seed of NumPy's generators, an int below 2**32."""
    return integer(op, name, value, 0, 2**32)
