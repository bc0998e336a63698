"""The mode `pytest --as-mac`: a Mac as far as the package can see. MLX's default device is "gpu",
and the backend metal runs in the simulator, fast and lazily. What a Mac has beside that is not
here: streams of the GPU are streams of the CPU, and processes that tests start are Linux.
"""

from __future__ import annotations

import threading

import mlx.core as mx
import mslsim
from mlx_ncps.backends import metal
from mlx_ncps.backends.gpu.geometry import APPLE
from mlx_ncps.backends.gpu.runner import Runner
from mslsim import lazy

# What never meets a GPU: simulated on Linux alone, whatever the default device; in processes of its
# own; on the CPU as default device, as test_stepping_sequences.py, which stays; texts and tools.
SKIPPED = ("simulator/tests/test_", "tests/ops/test_numpy", "tests/tools/test_mutation")
SKIPPED += tuple(
    f"tests/{folder}/test_{name}.py"
    for folder, names in {
        "backends": "forks interrupts native_locks pairs_and_guards stepping_half stepping_lazy "
        "stepping_masks",
        "docs": "architecture heads maths notebooks site",
        "gpu": "as_cuda bounds cfc cfc_features fold host launch ltc ltc_beside metallib plans "
        "programs programs_float64 programs_held signature text training",
        "ops": "initializers",
        "package": "import layout mlx_import native_texts structure typing",
        "programs": "blocks resets",
        "rnn": "dropout_programs own_steps step_programs",
        "tools": "agx build_backend cases cmake_messages cross_build fuzz_files left_out neon_mca "
        "pairs perf_guard second_runs",
    }.items()
    for name in names.split()
)

_real = {
    name: getattr(mx, name)
    for name in ("default_device", "set_default_device", "default_stream", "new_stream", "stream")
}
_default = [mx.gpu]
_local = threading.local()
_gpu_streams: list = []


def _is_gpu(where) -> bool:
    if where is None:  # as it is
        return _default_device().type == mx.gpu
    if isinstance(where, mx.Stream):
        return where in _gpu_streams
    return where == mx.gpu


def _on_cpu(where):
    """What there is in the place of a device or stream of the GPU."""
    kept = where is None or isinstance(where, mx.Stream) or not _is_gpu(where)
    return where if kept else mx.cpu


class _Device:
    """What mx.default_device() answers."""

    def __init__(self, kind):
        self.type = kind

    def __eq__(self, other):
        return getattr(other, "type", other) == self.type

    def __hash__(self):
        return hash(self.type)

    def __repr__(self):
        return f"Device({self.type.name}, 0)"


def _default_device():
    inner = getattr(_local, "devices", None)
    return _Device(inner[-1] if inner else _default[-1])


def _set_default_device(device):
    _default[-1] = mx.gpu if _is_gpu(device) else mx.cpu


def _new_stream(device):
    made = _real["new_stream"](_on_cpu(device))
    if _is_gpu(device):
        _gpu_streams.append(made)
    return made


class _StreamContext:
    """mx.stream: the default device is that of the stream."""

    def __init__(self, where):
        self.device = mx.gpu if _is_gpu(where) else mx.cpu
        self.inner = _real["stream"](_on_cpu(where))

    def __enter__(self):
        if not hasattr(_local, "devices"):
            _local.devices = []
        _local.devices.append(self.device)
        return self.inner.__enter__()

    def __exit__(self, *error):
        _local.devices.pop()
        return self.inner.__exit__(*error)


def install() -> None:
    """Make this process a Mac. Raises ImportError where the simulator's module is not built."""
    lazy.module()
    mslsim.require()
    mx.default_device, mx.set_default_device = _default_device, _set_default_device
    mx.default_stream = lambda device: _real["default_stream"](_on_cpu(device))
    mx.new_stream, mx.stream = _new_stream, _StreamContext
    mslsim.set_options(mode="fast", lint=False)
    metal.run = Runner(metal.NAME, lazy.metal_kernel, mx.cpu, APPLE)
    metal.available = lambda: (True, "mx.fast.metal_kernel, simulated")
