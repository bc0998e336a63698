"""The table of rows (op, mode, shape, wiring) that `python -m benchmarks` measures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import pairwise

import numpy as np

from tests.support.cases import CfcCase, LtcCase, build_wiring, make

MODES = {
    "fwd": "the states of a whole sequence, nothing kept for a gradient",
    "fwd+bwd": "the same and the gradients of all parameters",
    "train": "the same and a step of Adam",
    "step": "one call of the cell with one time step of one sequence, evaluated each time",
}


@dataclass(frozen=True)
class Row:
    """One line of the table: a case of the tests, and what is timed of it (`MODES`)."""

    case: LtcCase | CfcCase
    mode: str
    core: bool = True  # of `make bench`; the others take minutes

    @property
    def name(self) -> str:
        """Sizes, wiring and mode: what `--only` selects by."""
        return f"{self.case} {self.mode}"

    @property
    def is_ltc(self) -> bool:
        """LTC or CfC."""
        return isinstance(self.case, LtcCase)

    @property
    def gradients(self) -> bool:
        """Whether the row computes gradients."""
        return self.mode in ("fwd+bwd", "train")

    @cached_property  # builds the wiring: not in the time of a call
    def outputs(self) -> int:
        """The number O of neurons that are read out: the first O of the state."""
        wired = self.is_ltc and self.case.wiring
        return build_wiring(self.case).output_dim if wired else self.case.units

    @property
    def work(self) -> tuple[str, int]:
        """What limits a row on a CPU, and the least number of it: an LTC's sigmoids, a CfC's FMAs.

        A backward pass computes each sigmoid once more, and two products for each of the forward's.
        """
        kind, count = self._forward_work
        return kind, count * (1 if not self.gradients else 2 if self.is_ltc else 3)

    @cached_property
    def _forward_work(self) -> tuple[str, int]:
        c = self.case
        if self.is_ltc:
            params = make(c).params
            masks = (params.mask, params.sensory_mask)
            sizes = (c.units * c.units, c.inputs * c.units)
            recurrent, sensory = (
                size if mask is None else int(np.count_nonzero(mask))
                for mask, size in zip(masks, sizes, strict=True)
            )
            return "sigmoid", c.batch * c.steps * (c.unfolds * recurrent + sensory)
        widths = [c.inputs + c.units, *[c.backbone_units] * c.layers]
        layers = sum(n * m for n, m in pairwise(widths))
        heads = 3 * c.units * widths[-1]  # ff1, ff2 and the two time heads merged: ts is a number
        return "fma", c.batch * c.steps * (layers + heads)


_LTC = LtcCase(batch=64, steps=128, inputs=64, units=64)
_LTC_SMALL = LtcCase(batch=32, steps=64, inputs=16, units=64)
_LTC_NCP = replace(_LTC, wiring=("AutoNCP", 64, 8))
_CFC = CfcCase(batch=64, steps=128, inputs=64, units=128, backbone_units=128)
_ONE = {"batch": 1, "steps": 1}

ROWS = (
    Row(_LTC, "fwd"),
    Row(_LTC_SMALL, "fwd+bwd"),
    Row(_LTC_NCP, "fwd"),
    Row(_LTC_NCP, "fwd+bwd", core=False),
    Row(_CFC, "fwd"),
    Row(_CFC, "fwd+bwd"),
    Row(replace(_LTC, **_ONE), "step"),
    Row(replace(_LTC_NCP, **_ONE), "step"),
    Row(replace(_CFC, **_ONE), "step"),
    Row(_LTC_SMALL, "train"),
    Row(_CFC, "train", core=False),
)


def quick(rows) -> tuple[Row, ...]:
    """The same rows with an eighth of the time steps, and a quarter of the batch for LTCs."""

    def shorten(row):
        c = row.case
        batch = c.batch // 4 if row.is_ltc else c.batch
        return replace(row, case=replace(c, batch=max(batch, 1), steps=max(c.steps // 8, 1)))

    return tuple(shorten(row) for row in rows)


def select(rows, patterns) -> tuple[Row, ...]:
    """The rows that one of the patterns names; no patterns: all.

    A pattern with `*`, `?` or `[` is matched with the whole name, another is a part of it.
    Raises ValueError for a pattern that names no row.
    """
    if not patterns:
        return tuple(rows)

    def matches(row, pattern):
        glob = any(letter in pattern for letter in "*?[")
        return fnmatchcase(row.name, pattern) if glob else pattern in row.name

    for pattern in patterns:
        if not any(matches(row, pattern) for row in rows):
            names = ", ".join(row.name for row in rows)
            raise ValueError(f"[benchmarks] --only must name a row of {names}; got {pattern!r}.")
    return tuple(row for row in rows if any(matches(row, p) for p in patterns))
