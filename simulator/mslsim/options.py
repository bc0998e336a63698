"""How kernels are run: the options that `with mslsim.options(...)` changes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

ORDERS = ("forward", "reverse", "random", "chaos")
MODES = ("checked", "fast")
METAL_VERSIONS = (310, 320, 400)


@dataclass(frozen=True)
class Options:
    """Settings of a run.

    Attributes:
        mode: "checked" judges every load and store; "fast" only guards the ends of buffers.
        order: In which order threads and threadgroups run. "chaos" also preempts a thread before
            any access and lets most SIMD groups stand still for a while.
        seed: Of the orders "random" and "chaos", and of the noise of `ulp`.
        ulp: Transcendental results are off by up to this many units in the last place.
        ftz: Flush subnormal numbers to zero, as GPUs may.
        metal_versions: Language levels at which a kernel must be valid, as `__METAL_VERSION__`
            (310 is Metal 3.1); it runs as the first.
        lint: Check the rules of the language that compiling alone does not.
        allow: Kinds of findings that do not raise.
        finite: Every element of an output must be finite.
        unsigned_overflow: Unsigned integers must not wrap. It is defined, and meant in a hash or
            a random number; in an index it is a bug.
        threads: Host threads of the mode "fast".
    """

    mode: str = "checked"
    order: str = "forward"
    seed: int = 1
    ulp: int = 0
    ftz: bool = False
    metal_versions: tuple[int, ...] = (310,)
    lint: bool = True
    allow: frozenset[str] = frozenset()
    finite: bool = False
    unsigned_overflow: bool = False
    threads: int = 2

    def __post_init__(self):
        for name, allowed in (("mode", MODES), ("order", ORDERS)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"[mslsim] {name} must be one of {', '.join(allowed)}, "
                    f"got {getattr(self, name)!r}."
                )
        if not self.metal_versions or not set(self.metal_versions) <= set(METAL_VERSIONS):
            raise ValueError(
                f"[mslsim] metal_versions must be taken from {METAL_VERSIONS}, "
                f"got {self.metal_versions}."
            )
        object.__setattr__(self, "allow", frozenset(self.allow))


_current = Options()


def current() -> Options:
    """The options in force."""
    return _current


def set_options(**changes) -> None:
    """Change options from now on."""
    global _current
    _current = replace(_current, **changes)


@contextlib.contextmanager
def options(**changes) -> Iterator[Options]:
    """Change options within a `with` block: `with mslsim.options(order="chaos", seed=3): ...`."""
    global _current
    unknown = set(changes) - {f.name for f in fields(Options)}
    if unknown:
        raise ValueError(f"[mslsim] unknown options: {', '.join(sorted(unknown))}.")
    saved = _current
    _current = replace(saved, **changes)
    try:
        yield _current
    finally:
        _current = saved
