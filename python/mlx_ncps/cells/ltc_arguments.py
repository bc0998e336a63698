"""The arguments of an LTC, checked: ranges of its parameters, mappings, its wiring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..checks import brief, choice, real, refused
from ..wirings import FullyConnected, Wiring

INIT_RANGES = {
    "gleak": (0.001, 1.0),
    "vleak": (-0.2, 0.2),
    "cm": (0.4, 0.6),
    "w": (0.001, 1.0),
    "sigma": (3.0, 8.0),
    "mu": (0.3, 0.8),
    "sensory_w": (0.001, 1.0),
    "sensory_sigma": (3.0, 8.0),
    "sensory_mu": (0.3, 0.8),
}
_MAPPINGS = ("affine", "linear", "identity")
POSITIVE = ("w", "sensory_w", "cm", "gleak")


def _checked_range(name: str, pair: Any, open_ends: tuple = ()) -> None:
    """`pair` is (low, high), finite numbers, or None where `open_ends` has it."""
    fits, ends = isinstance(pair, (tuple, list)) and len(pair) == 2, []
    try:
        ends = [
            real("ltc", name, end, "(low, high)")
            for end in (pair if fits else ())
            if end is not None or None not in open_ends
        ]
    except ValueError:
        fits = False
    if not fits or not ends or ends != sorted(ends):
        raise refused("ltc", name, "(low, high)", pair)


def init_ranges(given: Any, implicit: bool) -> dict[str, tuple[float, float]]:
    """The ranges of the first values, ncps' own but for those `given`."""
    if given is not None and not isinstance(given, Mapping):
        raise refused("ltc", "initialization_ranges", "a dict of names and (low, high)", given)
    given = dict(given or {})
    for name, pair in given.items():
        if not isinstance(name, str) or name not in INIT_RANGES:
            wanted = ", ".join(INIT_RANGES)
            raise ValueError(f"[ltc] initialization_ranges must name {wanted}, got {name!r}.")
        _checked_range(f"initialization_ranges[{name!r}]", pair)
        if name in POSITIVE and pair[0] < 0 and not implicit:
            raise ValueError(
                f"[ltc] initialization_ranges[{name!r}] must be >= 0 unless "
                f"implicit_param_constraints are on, got {pair!r}."
            )
    return INIT_RANGES | given


def clip_ranges(given: Any, names: list[str]) -> Mapping:
    """The ranges that parameters, of these names, are clipped into: of all that must be positive,
    or those `given`.
    """
    if given is None:
        return dict.fromkeys(POSITIVE, (0.0, None))
    if not isinstance(given, Mapping):
        raise refused("ltc", "ranges", "a dict of names and (low, high)", given)
    for name, pair in given.items():
        if not isinstance(name, str) or name not in names:
            raise ValueError(
                f"[ltc] ranges must name parameters of the cell such as 'w', got {brief(name)}."
            )
        _checked_range(f"ranges[{name!r}]", pair, (None,))
    return given


def mapping_kind(op: str, name: str, mapping: Any) -> str:
    """A mapping of inputs or outputs; "identity" for None."""
    wanted = f"one of {', '.join(_MAPPINGS)} or None"
    return choice(op, name, "identity" if mapping is None else mapping, _MAPPINGS, wanted)


def as_wiring(wiring: Any) -> Wiring:
    """`wiring`, or a number of fully connected neurons."""
    if isinstance(wiring, Wiring):
        return wiring
    if not isinstance(wiring, (int, np.integer)) or isinstance(wiring, bool) or wiring < 1:
        raise refused("ltc", "wiring", "a Wiring or an integer >= 1", wiring)
    return FullyConnected(int(wiring))


def erev_of(matrix: str) -> str:
    """The reversal potentials that belong to a matrix of the wiring."""
    return matrix.replace("adjacency_matrix", "erev")
