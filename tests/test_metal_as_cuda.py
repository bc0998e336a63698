"""Every kernel text that MLX's CUDA backend would compile, compiled by NVRTC without a GPU."""

import ctypes
import os
import re
from importlib.util import find_spec
from pathlib import Path

import mlx.core as mx
import pytest
from case_arrays import to_mlx
from cases import CfcCase, LtcCase, make
from mlx_ncps import ops
from mlx_ncps.backends import _cfc_kernels, _kernels, _ltc_kernels

ARCHITECTURES = ("sm_80", "sm_90a")
CASES = [
    LtcCase(units=9),
    LtcCase(units=64),
    LtcCase(batch=1, units=65),
    LtcCase(batch=33, units=65),
    LtcCase(units=64, density=0.2),
    CfcCase(timespans="per_batch"),
    CfcCase(batch=64, units=128, backbone_units=128, layers=2, activation="gelu"),
    CfcCase(units=64, layers=0, mode="pure", activation="silu"),
    CfcCase(units=100, layers=3, mode="no_gate", activation="sigmoid", variant="keras"),
    CfcCase(units=20, variant="paper"),
]


def recorded(case):
    """{name: text} of every kernel that a call of the case and its gradient launch."""
    texts = {}

    def register(name, input_names, output_names, source, header):
        def kernel(*, inputs, template, output_shapes, output_dtypes, **_):
            unique = "_".join(["custom_kernel", name, *(str(v) for _, v in template)])
            dtypes = [a.dtype for a in inputs]
            parts = unique, header, source, zip(input_names, dtypes, strict=True), output_names
            texts[unique] = cuda_text(*parts, template)
            return [mx.zeros(s, d) for s, d in zip(output_shapes, output_dtypes, strict=True)]

        return kernel

    run = _kernels.Runner("cuda", register, mx.cpu, cuda=True)
    call = to_mlx(make(case))
    ts = 1.0 if call.ts is None else call.ts
    ltc, lists = isinstance(case, LtcCase), None
    if ltc and case.density < 1:
        lists = ops.SynapseLists(make(case).params.mask, make(case).params.sensory_mask)

    def f(state):
        if ltc:
            options = {"unfolds": 2, "epsilon": 1e-8, "implicit": False, "synapses": lists}
            op = _ltc_kernels.ltc_sequence
        else:
            options, op = call.keywords, _cfc_kernels.cfc_sequence
        return op(run, call.inputs, state, ts, call.params, training=True, **options)

    mx.eval(mx.vjp(f, [call.state], [call.cotangents]))
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


@pytest.fixture(scope="module")
def compiled():
    """A function (text, architecture) -> (result code, log) of NVRTC; skips where it is missing."""
    try:
        folder = Path(find_spec("nvidia.cuda_nvrtc").submodule_search_locations[0])
    except (ModuleNotFoundError, AttributeError):
        missing = "no NVRTC: pip install nvidia-cuda-nvrtc-cu12"
        if os.environ.get("MLX_NCPS_REQUIRE_NVRTC") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    nvrtc = ctypes.CDLL(str(next(folder.glob("lib/libnvrtc.so*"))))

    def compile_text(text, architecture):
        program, size = ctypes.c_void_p(), ctypes.c_size_t()
        nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernel.cu", 0, None, None)
        options = [f"--gpu-architecture={architecture}", "--std=c++17", "--ptxas-options=-v"]
        options.append("--diag-suppress=177")  # a template argument that a variant does not read
        array = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
        code = nvrtc.nvrtcCompileProgram(program, len(options), array)
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
        return code, log.value.decode()

    return compile_text


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernels_compile_as_cuda(compiled, case, architecture):
    texts = recorded(case)
    assert texts
    for name, text in texts.items():
        code, log = compiled(text, architecture)
        print(name, log)  # registers and shared memory, with pytest -s
        assert code == 0, f"{name}:\n{log}"
        assert "warning" not in log, f"{name}:\n{log}"
        memory = re.findall(r"(\d+) bytes (?:stack frame|spill)", log)
        assert memory, log
        assert set(memory) == {"0"}, f"{name} leaves its registers:\n{log}"


def test_a_text_with_an_error_does_not_compile(compiled):
    name, text = next(iter(recorded(CASES[0]).items()))
    code, log = compiled(text.replace("if (j >= H", "if (jj >= H"), "sm_80")
    assert code != 0, name
    assert "jj" in log
