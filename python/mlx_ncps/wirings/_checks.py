"""Argument checks of the wirings: each returns a plain value, or raises a ValueError that names
op, wanted and given; those of `mlx_ncps.checks`, and three more.
"""

from __future__ import annotations

from typing import Any

from ..checks import at_most, flag, integer, real, refused

__all__ = ["at_most", "flag", "integer", "polarity", "refused", "seed", "share"]


def share(
    op: str, name: str, value: Any, low: float, high: float, *, open_end: bool = False
) -> float:
    """``value`` as a float in ``[low, high]``, without ``high`` itself when ``open_end``."""
    wanted = f"in [{low}, {high}" + (")" if open_end else "]")
    return real(
        op, name, value, wanted, lambda n: low <= n <= high and not (open_end and n == high)
    )


def polarity(op: str, value: Any) -> int:
    """``value`` as -1 (inhibitory) or +1 (excitatory)."""
    return int(real(op, "polarity", value, "-1 or +1", lambda number: number in (-1, 1)))


def seed(op: str, name: str, value: Any) -> int:
    """``value`` as a seed of NumPy's generators, an int below 2**32."""
    return integer(op, name, value, 0, 2**32)
