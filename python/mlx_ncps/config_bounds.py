"""How large a configuration may be: as `get_config` makes it, and before `from_config` reads it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from . import limits

MOST_VALUES = 10**6  # of a configuration: lists of numbers among them, arrays not


class _Walk(threading.local):
    """How far this thread's `get_config` may still go; None outside of one."""

    left: int | None = None


_walk = _Walk()


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Within it a configuration that is made has MOST_VALUES and an end: objects may hold
    themselves, or each other over and over.
    """
    outermost = _walk.left is None
    if outermost:
        _walk.left = MOST_VALUES
    try:
        yield
    except RecursionError as error:
        text = "[get_config] config must be nested less deep, got too many levels."
        raise ValueError(text) from error
    finally:
        if outermost:
            _walk.left = None


def count_value() -> None:
    """One value more of the configuration that is made."""
    if _walk.left is None:
        return
    _walk.left -= 1
    if _walk.left < 0:
        text = f"[get_config] config must hold at most {MOST_VALUES} values, got more."
        raise ValueError(text)


def check_nesting(config: Any) -> None:
    """Raise ValueError for a configuration whose lists and dicts lie too deep in each other, hold
    themselves, or are more than `limits` admits, each counted wherever it comes again.
    """
    count, todo = 0, [(config, 0)]
    while todo:
        item, depth = todo.pop()
        count += 1
        if depth > limits.MAX_NESTING or count > limits.MAX_ITEMS:
            raise ValueError(
                f"[from_config] config must have at most {limits.MAX_ITEMS} lists and dicts, "
                f"nested at most {limits.MAX_NESTING} deep, got more."
            )
        items = item.values() if isinstance(item, dict) else item
        todo += [(value, depth + 1) for value in items if isinstance(value, list | tuple | dict)]
