"""Runs the Metal backend on the simulator: the library's own launch code and gradients, its kernels
checked at every access.
"""

import contextlib

import mlx.core as mx
import mslsim
from mlx_ncps import dispatch
from mlx_ncps.backends import _kernels, metal

ORDERS = ("forward", "reverse", "chaos")
VERSIONS = (310, 400)  # Metal 3.1 and 4.0: every kernel must be valid in both


@contextlib.contextmanager
def simulated(order="forward", change=None, **options):
    """Within the block the backend "metal" runs in the simulator; skips the test without clang.

    change: a pair (file of metal/, function of its text), for planted errors.
    """
    mslsim.require()
    saved = metal.run, metal.available, _kernels.text
    metal.run = _kernels.Runner("metal", mslsim.metal_kernel, mx.cpu)
    metal.available = lambda: (True, "simulated")
    if change:
        name, function = change
        _kernels.text = lambda file: function(saved[2](file)) if file == name else saved[2](file)
        _kernels.header.cache_clear()
    try:
        options = {"metal_versions": VERSIONS} | options
        with mslsim.options(order=order, **options), dispatch.use_backend("metal"):
            yield
    finally:
        metal.run, metal.available, _kernels.text = saved
        if change:
            _kernels.header.cache_clear()


def replaced(old, new):
    """A function of a text that replaces `old`, which must occur once."""

    def change(text):
        assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times"
        return text.replace(old, new)

    return change
