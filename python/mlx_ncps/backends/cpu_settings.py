"""Threads and instruction set of the CPU's kernels."""

from __future__ import annotations

from .. import _loader
from ..checks import choice, integer


def _native():
    """The native module, or RuntimeError with the reason for its absence."""
    if _loader.native is None:
        raise RuntimeError(f"[mlx_ncps] the native module is not loaded: {_loader.reason}")
    return _loader.native


def set_num_threads(n: int) -> None:
    """Let the CPU kernels use `n` threads; 0 for the default: the cores that this process may use.

    Raises ValueError for a negative or fractional number, RuntimeError without the native module.

    Example:
        >>> set_num_threads(1)
        >>> get_num_threads()
        1
        >>> set_num_threads(0)  # the default again
    """
    _native().set_num_threads(integer("set_num_threads", "n", n, 0))


def get_num_threads() -> int:
    """The number of threads of the CPU kernels. Raises RuntimeError without the native module.

    Example:
        >>> get_num_threads() >= 1
        True
    """
    return _native().num_threads()


def set_instruction_set(name: str) -> None:
    """Let the CPU kernels use the instruction set `name`: of `instruction_sets()`, or "auto" for
    the best.

    Raises ValueError when this machine or this build can't run it, RuntimeError without the native
    module.

    Example:
        >>> set_instruction_set("baseline")
        >>> get_instruction_set()
        'baseline'
        >>> set_instruction_set("auto")
    """
    able = instruction_sets()
    choice("set_instruction_set", "name", name, ["auto", *able])
    _native().set_isa(able[0] if name == "auto" else name)


def get_instruction_set() -> str:
    """The instruction set that the CPU kernels use. Raises RuntimeError without the native
    module.

    Example:
        >>> get_instruction_set() in instruction_sets()
        True
    """
    return _native().isa()


def instruction_sets() -> list[str]:
    """The instruction sets that can run here, best first.

    Raises RuntimeError without the native module.

    Example:
        >>> instruction_sets()[-1]  # for any processor
        'baseline'
    """
    return list(_native().isas())
