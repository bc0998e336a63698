"""Errors of the simulator: one class per kind of finding, each finding with its kernel line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a kernel.

    `where` is "file:line" (two of them for a race), the files of a kernel called `name` being
    `name.source`, `name.header` and `name.generated`, the text that MLX adds around them.
    """

    kind: str
    where: str
    text: str
    severity: str = "error"

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"[{self.kind}] {place}{self.text}"


class MSLError(RuntimeError):
    """A kernel that would not compile, or would misbehave, on a GPU."""

    def __init__(self, kernel: str, findings: Iterable[Finding]):
        self.kernel = kernel
        self.findings = list(findings)
        super().__init__("\n  ".join([f"{kernel}:", *map(str, self.findings)]))

    @property
    def kinds(self) -> set[str]:
        """The kinds of all findings: a kernel can be wrong in several ways at once."""
        return {f.kind for f in self.findings}


class CompileError(MSLError):
    """The text is not valid: the compiler refused it."""


class LanguageError(MSLError):
    """The text compiles here but breaks a rule of Metal (see lint.py)."""


class LaunchError(MSLError):
    """The launch exceeds a limit of Metal (threads, buffers, threadgroup memory), or binds a number
    of another type than the kernel declares.
    """


class ExecutionError(MSLError):
    """The kernel misbehaved while it ran."""


class OutOfBoundsError(ExecutionError):
    """An access outside a buffer, a threadgroup array or a private array."""


class RaceError(ExecutionError):
    """Two threads touch one element, at least one writes, and no barrier orders them."""


class BarrierError(ExecutionError):
    """A barrier that not all threads of the threadgroup reach."""


class SimdError(ExecutionError):
    """A SIMD-group function under divergent control flow, or a read of an inactive lane."""


class UninitialisedError(ExecutionError):
    """A read of threadgroup memory or of an output that nothing has written."""


class UnwrittenError(ExecutionError):
    """An output element that no thread wrote."""


class ReadOnlyError(ExecutionError):
    """A write to an input."""


class UndefinedBehaviourError(ExecutionError):
    """Misaligned access, integer overflow or division by zero, out-of-range conversion."""


class NotFiniteError(ExecutionError):
    """An output element that is NaN or infinite, under the option `finite`."""


class CrashError(ExecutionError):
    """A wild pointer or an exhausted private stack."""


_CLASSES: dict[str, type[MSLError]] = {
    "compile": CompileError,
    "limit": LaunchError,
    "argument": LaunchError,
    "oob": OutOfBoundsError,
    "race": RaceError,
    "barrier": BarrierError,
    "simd-divergent": SimdError,
    "simd-inactive": SimdError,
    "uninit": UninitialisedError,
    "unwritten": UnwrittenError,
    "read-only": ReadOnlyError,
    "ub": UndefinedBehaviourError,
    "wrap": UndefinedBehaviourError,
    "not-finite": NotFiniteError,
    "crash": CrashError,
}

EXECUTION_KINDS = frozenset(_CLASSES) - {"compile"}


def execution_error(kernel: str, findings: list[Finding]) -> MSLError:
    """The error for what a run reported, of the class of its first finding."""
    return _CLASSES.get(findings[0].kind, ExecutionError)(kernel, findings)
