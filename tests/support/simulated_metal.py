"""Runs the Metal backend on the simulator: the library's own launch code and gradients, its kernels
checked at every access.
"""

import contextlib
from dataclasses import dataclass

import mlx.core as mx
import mslsim
from mlx_ncps import dispatch
from mlx_ncps.backends import metal
from mlx_ncps.backends.gpu import runner
from mlx_ncps.backends.gpu.geometry import APPLE, Geometry
from mlx_ncps.backends.gpu.pieces import Piece

ORDERS = ("forward", "reverse", "chaos")
VERSIONS = (310, 400)  # Metal 3.1 and 4.0: every kernel must be valid in both


@contextlib.contextmanager
def simulated(order="forward", change=None, geometry: Geometry = APPLE, **options):
    """Within the block the backend "metal" runs in the simulator; skips the test without clang.

    change: a pair (file of metal/, function of its text), for planted errors.  geometry: of the
    launches.
    """
    mslsim.require()
    saved = metal.run, metal.available, runner.text
    metal.run = runner.Runner("metal", mslsim.metal_kernel, mx.cpu, geometry)
    metal.available = lambda: (True, "simulated")
    if change:
        name, function = change
        runner.text = lambda file: function(saved[2](file)) if file == name else saved[2](file)
        runner.header.cache_clear()
    try:
        options = {"metal_versions": VERSIONS} | options
        with mslsim.options(order=order, **options), dispatch.use_backend("metal"):
            yield
    finally:
        metal.run, metal.available, runner.text = saved
        if change:
            runner.header.cache_clear()


@dataclass(frozen=True, eq=False)
class _Cut(Geometry):
    """APPLE, whose launches take no more than `piece` of a call."""

    piece: Piece | None = None

    def ltc_piece(self, *_):
        return self.piece

    def cfc_piece(self, *_):
        return self.piece

    def program_piece(self, *_):
        return self.piece


def rough_division(text: str, last_places: int) -> str:
    """The text of math.h with a fast division that is so many last places off; Metal allows 2.5."""
    exact = "return metal::fast::divide(a, b);"
    off = f"as_type<float>(as_type<int>(y) + {last_places})"
    rough = "const float y = metal::fast::divide(a, b); "
    rough += f"return metal::fabs(y) > 1e-30f && metal::fabs(y) < 1e30f ? {off} : y;"
    assert text.count(exact) == 1
    return text.replace(exact, rough)


def cut(piece: tuple[int, int], **changes) -> Geometry:
    """APPLE with these changes, whose launches take so many rows and steps at most."""
    return _Cut(piece=Piece(*piece), **changes)


def replaced(old, new):
    """A function of a text that replaces `old`, which must occur once."""

    def change(text):
        assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times"
        return text.replace(old, new)

    return change
