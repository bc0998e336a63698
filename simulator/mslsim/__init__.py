"""mslsim: runs Metal compute kernels on a Linux CPU, with the checks that a GPU never gives.

    with mslsim.options(order="chaos", seed=3):
        kernel = mslsim.metal_kernel("twice", ["x"], ["y"], "...")  # as mx.fast.metal_kernel
        (y,) = kernel(inputs=[x], grid=(n, 1, 1), threadgroup=(32, 1, 1),
                      output_shapes=[x.shape], output_dtypes=[x.dtype])

    with mslsim.installed():  # the code under test calls mx.fast.metal_kernel itself
        ...

A kernel that races, reads what nothing wrote, leaves its buffers, diverges at a barrier or is not
Metal raises an `MSLError` with the line of its source. docs/metal_simulator.md tells how it works.
"""

from .compiler import available, require
from .errors import (
    BarrierError,
    CompileError,
    CrashError,
    ExecutionError,
    Finding,
    LanguageError,
    LaunchError,
    MSLError,
    NotFiniteError,
    OutOfBoundsError,
    RaceError,
    ReadOnlyError,
    SimdError,
    UndefinedBehaviourError,
    UninitialisedError,
    UnwrittenError,
)
from .fast import SimulatedKernel, installed, metal_kernel
from .kernel import Kernel
from .launch import Buffer, Stats, launch
from .options import MODES, ORDERS, Options, options, set_options

__all__ = [
    "MODES",
    "ORDERS",
    "BarrierError",
    "Buffer",
    "CompileError",
    "CrashError",
    "ExecutionError",
    "Finding",
    "Kernel",
    "LanguageError",
    "LaunchError",
    "MSLError",
    "NotFiniteError",
    "Options",
    "OutOfBoundsError",
    "RaceError",
    "ReadOnlyError",
    "SimdError",
    "SimulatedKernel",
    "Stats",
    "UndefinedBehaviourError",
    "UninitialisedError",
    "UnwrittenError",
    "available",
    "installed",
    "launch",
    "metal_kernel",
    "options",
    "require",
    "set_options",
]
