"""Keeps a cell's masks and the matrices of its wiring one truth: an edit of either, however it is
made, reaches the other before anything is computed, counted or saved.
"""

from __future__ import annotations

import sys
import warnings
import weakref
from typing import Any

import mlx.core as mx
import numpy as np

from ..ops.masks import Rule, guarded
from ..values import in_step_trace, is_tracer, seen
from ..wirings._matrices import MATRICES
from .mask_blocks import OWN, PAIRS, SOURCES, Block

Masks = dict[tuple[str, str], np.ndarray]  # (part of the cell, key) -> values
Matrices = dict[str, np.ndarray]


class Owner:
    """Who must hear of an edit: a weak reference that copies and pickles leave behind."""

    def __init__(self, cell: Any = None) -> None:
        self._cell = (lambda: None) if cell is None else weakref.ref(cell)

    def is_one(self, cell: Any) -> bool:
        """Whether `cell` is the owner."""
        return self._cell() is cell

    def sync(self, edited: bool = False) -> None:
        """Let the owner's masks and wiring follow each other, if it still exists."""
        cell = self._cell()
        if cell is not None:
            cell._sync_wiring(strict=edited, edited=edited)

    def __deepcopy__(self, memo: dict[int, Any]) -> Owner:
        return Owner()

    def __reduce__(self) -> tuple[type[Owner], tuple[()]]:
        return Owner, ()


class WiringTie:
    """What a cell's masks and wiring were when they agreed last; `blocks` say how they hang
    together. Belongs to one cell.

    `sync` compares them with what the cell has now. A pair of neurons that changed on one side only
    changes the other side too; one that changed on both must agree.
    """

    def __init__(self, blocks: list[Block]) -> None:
        self.blocks = blocks
        self._names = list(dict.fromkeys((block.part, block.key) for block in blocks))
        self.masks = {}  # (part of the cell, key) -> its values when read last
        self._matrices = {}  # name -> values
        self._objects = []  # the arrays of then
        self._seen = None  # the same for the extension, which notices edits in place

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_objects": [], "_seen": None}

    def __copy__(self) -> WiringTie:
        twin = WiringTie(self.blocks)
        twin.masks, twin._matrices = dict(self.masks), dict(self._matrices)
        return twin

    def parts(self) -> set[str]:
        """The names of the cell's parts that hold masks."""
        return {block.part for block in self.blocks if block.part}

    def start(self, cell: Any) -> None:
        """Take masks and wiring, just made of each other, as they are."""
        for (part, key), mask in self._arrays_of_masks(cell).items():
            self.masks[part, key] = _values(mask)
        self._matrices = {name: cell["wiring"]._read(name) for name in MATRICES}
        self._remember(cell)
        self._own(cell)

    def sync(self, cell: Any, strict: bool = True, edited: bool = False) -> bool:
        """Let an edit on either side reach the other; False where a value is a tracer's.

        edited: the user has just set the wiring, so that polarities are new ones.
        Raises ValueError where both sides were edited and disagree, unless not `strict`: then
        nothing is done.
        """
        if in_step_trace() or not (self._objects or self._complete(cell)):
            return True
        try:
            arrays = self._arrays(cell)
        except (KeyError, TypeError):  # what replaced a layer has no mask; the call says if it may
            return True
        if self._seen is not None and self._seen.are(arrays):
            return True
        if any(map(is_tracer, arrays)):
            return False
        try:
            self._compare(cell, edited)
        except ValueError:
            if strict:
                raise
            return True
        self._remember(cell)
        self._own(cell)
        return True

    def guard(self, cell: Any, array: mx.array) -> mx.array:
        """`array`, or NaN where masks and wiring are tracers that turn out to disagree."""
        return guarded(array, self._arrays(cell), self._rules())

    def _rules(self) -> list[Rule]:
        """That each block's part of a mask and its synapses agree, in the order of `_arrays`."""
        index, start = [], 0
        for known in (*self.masks.values(), *self._matrices.values()):
            index.append(start + np.arange(known.size, dtype=np.int32).reshape(known.shape))
            start += known.size
        masks = dict(zip(self.masks, index, strict=False))
        matrices = dict(zip(self._matrices, index[len(masks) :], strict=True))
        pairs: dict[bool, list] = {False: [], True: []}  # by whether elements may be 1 alone
        rules = []
        for block in self.blocks:
            at = block.of(masks[block.part, block.key])
            of = block.at(matrices[block.matrix])
            if block.kind == SOURCES:
                rules.append(Rule(at, of))
            else:
                pairs[block.kind == OWN].append((at.ravel(), of.ravel()))
        for own, several in pairs.items():
            if several:
                at, of = (np.concatenate(part) for part in zip(*several, strict=True))
                rules.append(Rule(at, of[:, None], own))
        return rules

    def _compare(self, cell: Any, edited: bool) -> None:
        wiring = cell["wiring"]
        masks = {name: _values(mask) for name, mask in self._arrays_of_masks(cell).items()}
        matrices = {name: wiring._read(name) for name in MATRICES}
        if _equal(masks, self.masks) and _equal(matrices, self._matrices):
            return
        for name, mask in masks.items():
            if mask.shape != (wanted := self.masks[name].shape):
                raise ValueError(f"[{cell.op}] {name[1]} must be {wanted}, got {mask.shape}.")
        in_place = {n for n in MATRICES if any(wiring[n] is a for a in self._objects)}
        self._settle(cell, masks, matrices, set(MATRICES) if edited else in_place)

    def _settle(self, cell: Any, masks: Masks, matrices: Matrices, fresh: set) -> None:
        """Carry the edits over; `fresh`: the matrices whose polarities the user has set."""
        before = self._matrices
        new_masks = {name: mask.copy() for name, mask in masks.items()}
        new_matrices = {name: matrix.copy() for name, matrix in matrices.items()}
        unread = {name: matrices[name] != before[name] for name in MATRICES}
        added = {name: np.zeros(matrices[name].shape, bool) for name in MATRICES}
        for block in self.blocks:
            name = block.part, block.key
            mask, matrix = masks[name], matrices[block.matrix]
            old = block.of(self.masks[name]), block.at(before[block.matrix])
            signs = cell._likely_polarities(block.matrix, matrix.shape)
            now = block.of(mask), block.at(matrix), block.at(signs)
            done = block.settle(cell.op, *old, *now)
            block.of(new_masks[name])[...] = done.mask
            block.put(new_matrices[block.matrix], done.matrix)
            block.put(unread[block.matrix], done.unread)
            if block.kind == PAIRS:
                block.put(added[block.matrix], (done.mask != 0) & (now[0] == 0))
        self._write(cell, masks, new_masks, matrices, new_matrices)
        self.masks, self._matrices = new_masks, new_matrices
        for name in MATRICES:
            set_anew = (matrices[name] != before[name]) & (matrices[name] != 0)
            if name in fresh and set_anew.any():
                cell._polarities_set(name, matrices[name], set_anew)
            elif added[name].any():
                cell._polarities_set(name, matrices[name], added[name], only_unset=True)
        if count := sum(int(np.count_nonzero(unread[name])) for name in fresh):
            warnings.warn(
                f"[{cell.op}] {count} of the edited synapses change nothing: {cell._UNREAD}.",
                stacklevel=_users_level(),
            )

    def _write(
        self, cell: Any, masks: Masks, new_masks: Masks, matrices: Matrices, new_matrices: Matrices
    ) -> None:
        """Set what has become another in the cell and its wiring."""
        for (part, key), mask in new_masks.items():
            if not np.array_equal(mask, masks[part, key], equal_nan=True):
                holder = cell[part] if part else cell
                plain = mx.array(np.ascontiguousarray(mask), holder[key].dtype)
                dict.__setitem__(holder, key, plain)  # past the hook that calls this
        for name, matrix in new_matrices.items():
            if not np.array_equal(matrix, matrices[name]):
                cell["wiring"]._follow(name, matrix)

    def _complete(self, cell: Any) -> bool:
        """Whether a copy has got all its parts yet."""
        holders = [(cell.get(part) if part else cell, key) for part, key in self._names]
        holders += [(cell.get("wiring"), name) for name in MATRICES]
        return all(holder is not None and key in holder for holder, key in holders)

    def _arrays_of_masks(self, cell: Any) -> dict:
        arrays = {}
        for part, key in self._names:
            owner = getattr(cell, part) if part else cell
            if key not in owner:
                raise ValueError(
                    f"[{cell.op}] {part or 'the cell'} must be a CfCCell with a {key}, which the "
                    f"wiring sets, got {type(owner).__name__} without."
                )
            arrays[part, key] = owner[key]
        return arrays

    def _arrays(self, cell: Any) -> list:
        wiring = cell["wiring"]
        try:
            masks = [(cell[part] if part else cell)[key] for part, key in self._names]
        except (KeyError, TypeError):
            masks = self._arrays_of_masks(cell).values()  # which says what is wrong
        return [*masks, *(wiring[name] for name in MATRICES)]

    def _remember(self, cell: Any) -> None:
        self._objects = self._arrays(cell)
        self._seen = seen(self._objects)

    def _own(self, cell: Any) -> None:
        """Make edits of the parts known here."""
        for part in (cell["wiring"], *(cell[name] for name in self.parts())):
            owner = part.__dict__.get("_owner")
            if owner is None or not owner.is_one(cell):
                part.__dict__["_owner"] = Owner(cell)


def _equal(these: dict, those: dict) -> bool:
    return all(np.array_equal(these[n], those[n], equal_nan=True) for n in these)


def _users_level() -> int:
    """The `stacklevel` of a warning for the user's line."""
    level, frame = 1, sys._getframe(1)
    while frame and frame.f_globals.get("__name__", "").split(".")[0] in ("mlx_ncps", "mlx"):
        level, frame = level + 1, frame.f_back
    return level


def _values(array: mx.array) -> np.ndarray:
    """A mask on the host, as float32."""
    return np.array(array.astype(mx.float32))
