"""The CUDA text of the GPU kernels, and NVRTC, which compiles it without a GPU."""

import ctypes
import math
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import mlx.core as mx
from mlx_ncps import ops
from mlx_ncps.backends.gpu import OPERATIONS
from mlx_ncps.backends.gpu.geometry import CUDA, Geometry
from mlx_ncps.backends.gpu.runner import Runner

from tests.support.case_arrays import to_mlx
from tests.support.cases import LtcCase, make

ARCHITECTURES = ("sm_80", "sm_90a")


def recorded(case, geometry: Geometry = CUDA, *, resets: bool = False):
    """{name: (text, threads of a group)} of every kernel that a call of the case and its gradient
    launch, with this geometry; `resets`: states start anew, and those of a CfC stay at some steps.
    """
    texts = {}

    def register(name, input_names, output_names, source, header):
        def kernel(*, inputs, template, threadgroup, output_shapes, output_dtypes, **_):
            unique = "_".join(["custom_kernel", name, *(str(v) for _, v in template)])
            dtypes = [a.dtype for a in inputs]
            parts = unique, header, source, zip(input_names, dtypes, strict=True), output_names
            texts[unique] = cuda_text(*parts, template), math.prod(threadgroup)
            return [mx.zeros(s, d) for s, d in zip(output_shapes, output_dtypes, strict=True)]

        return kernel

    run = Runner("cuda", register, mx.cpu, geometry, cuda=True)
    call = to_mlx(make(case))
    ts = 1.0 if call.ts is None else call.ts
    ltc, lists = isinstance(case, LtcCase), None
    if ltc and case.density < 1:
        lists = ops.SynapseLists(make(case).params.mask, make(case).params.sensory_mask)

    def f(state, inputs, *sigma):
        params = call.params._replace(sigma=sigma[0]) if ltc else call.params
        if ltc:
            options = {"ode_unfolds": 2, "epsilon": 1e-8, "implicit_param_constraints": False}
            options, op = options | {"synapses": lists}, OPERATIONS["ltc_sequence"].sequence
        else:
            options, op = call.keywords, OPERATIONS["cfc_sequence"].sequence
        if resets:
            never = mx.zeros(call.inputs.shape[:2], mx.bool_)
            options = options | {"resets": [never, call.state]} | ({} if ltc else {"held": never})
        return op(run, inputs, state, ts, params, training=True, **options)

    primals = [call.state, call.inputs] + ([call.params.sigma] if ltc else [])
    mx.eval(mx.vjp(f, primals, [call.cotangents]))
    return texts


def cuda_text(name, header, source, inputs, outputs, template):
    """The text as MLX puts it together, but for its own headers."""
    types = {mx.float32: "float", mx.int32: "int"}
    parameters = [f"const {types[dtype]}* {buffer}" for buffer, dtype in inputs]
    parameters += [f"float* {buffer}" for buffer in outputs]
    constants = "".join(f"  constexpr int {key} = {value};\n" for key, value in template)
    return (
        f"{header}\nnamespace mlx::core::cu {{\n\n__global__ void {name}(\n    "
        + ",\n    ".join(parameters)
        + f") {{\n{constants}\n{source}\n}}\n\n}}\n"
    )


@cache
def _library():
    """The library of NVRTC, or None."""
    try:
        folder = Path(find_spec("nvidia.cuda_nvrtc").submodule_search_locations[0])
    except (ModuleNotFoundError, AttributeError):
        return None
    return ctypes.CDLL(str(next(folder.glob("lib/libnvrtc.so*"))))


def nvrtc_version() -> tuple[int, int]:
    """(major, minor) of NVRTC, which must be there."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return major.value, minor.value


def nvrtc():
    """A function (text, architecture, *options) -> (result code, log) of NVRTC; None where it is
    missing.
    """
    if _library() is None:
        return None

    def compile_text(text, architecture, *more):
        return cubin(text, architecture, *more)[:2]

    return compile_text


def cubin(text, architecture, *more) -> tuple[int, str, bytes]:
    """(result code, log, machine code) of NVRTC, which must be there."""
    library = _library()
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernel.cu", 0, None, None)
    options = [f"--gpu-architecture={architecture}", "--std=c++17", "--ptxas-options=-v"]
    # a template argument that a variant does not read
    options += ["--diag-suppress=177", *more]
    array = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
    code = library.nvrtcCompileProgram(program, len(options), array)

    def given(what):
        getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        found = ctypes.create_string_buffer(size.value)
        getattr(library, f"nvrtcGet{what}")(program, found)
        return found.raw

    log = given("ProgramLog").rstrip(b"\0").decode()
    binary = given("CUBIN") if code == 0 else b""
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return code, log, binary


def registers(log) -> int:
    """Registers of a thread, from the log of a compilation."""
    return int(re.search(r"Used (\d+) registers", log)[1])


def outside_registers(log) -> list[int]:
    """Bytes of a thread's stack frame, spilled stores and loads."""
    return [int(n) for n in re.findall(r"(\d+) bytes (?:stack frame|spill)", log)]
