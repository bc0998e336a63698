"""The simulator as tests use it: in place of mx.fast.metal_kernel, with options, without clang."""

import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import mslsim
import numpy as np
import pytest
from mslsim import compiler

TWICE = "uint i = thread_position_in_grid.x; y[i] = 2 * x[i];"


@pytest.fixture
def clang():
    mslsim.require()


def twice(x, **options):
    """What a library does: an MLX kernel with its gradient attached."""

    @mx.custom_function
    def op(x):
        kernel = mx.fast.metal_kernel("twice", ["x"], ["y"], TWICE)
        return kernel(
            inputs=[x],
            grid=(x.size, 1, 1),
            threadgroup=(32, 1, 1),
            output_shapes=[x.shape],
            output_dtypes=[x.dtype],
            **options,
        )[0]

    @op.vjp
    def op_vjp(primals, cotangents, outputs):
        return 2 * cotangents

    return op(x)


def call_arguments(x, **changes):
    return {
        "inputs": [x],
        "grid": (x.size, 1, 1),
        "threadgroup": (32, 1, 1),
        "output_shapes": [x.shape],
        "output_dtypes": [x.dtype],
    } | changes


def test_installed_replaces_and_restores(clang):
    original, available = mx.fast.metal_kernel, mx.metal.is_available
    with mslsim.installed():
        assert mx.fast.metal_kernel is mslsim.metal_kernel
        assert mx.metal.is_available()
        np.testing.assert_array_equal(twice(mx.arange(40.0)), 2 * np.arange(40))
    assert mx.fast.metal_kernel is original
    assert mx.metal.is_available is available


def test_installed_restores_after_an_error():
    original = mx.fast.metal_kernel
    with pytest.raises(KeyError), mslsim.installed():
        raise KeyError
    assert mx.fast.metal_kernel is original


def test_installed_runs_within_grad_and_compile(clang):
    with mslsim.installed():
        value, gradient = mx.value_and_grad(lambda x: (twice(x) ** 2).sum())(mx.arange(40.0))
        compiled = mx.compile(twice)(mx.arange(40.0))
    assert value.item() == 4 * (np.arange(40.0) ** 2).sum()
    np.testing.assert_array_equal(gradient, 8 * np.arange(40))
    np.testing.assert_array_equal(compiled, 2 * np.arange(40))


def test_kernel_has_no_derivative_of_its_own(clang):
    kernel = mslsim.metal_kernel("twice", ["x"], ["y"], TWICE)

    def total(x):
        return kernel(**call_arguments(x))[0].sum()

    with pytest.raises(ValueError, match="Not implemented for CustomKernel"):
        mx.grad(total)(mx.arange(40.0))


def test_vmap_raises(clang):
    kernel = mslsim.metal_kernel("twice", ["x"], ["y"], TWICE)
    with pytest.raises(ValueError, match="vmap"):
        mx.vmap(lambda x: kernel(**call_arguments(x))[0])(mx.zeros((3, 40)))


@pytest.mark.parametrize(
    "dtype", [mx.float32, mx.float16, mx.bfloat16, mx.int32, mx.uint8], ids=str
)
def test_dtype_in_and_out(clang, dtype):
    kernel = mslsim.metal_kernel("twice", ["x"], ["y"], TWICE)
    x = mx.arange(40).astype(dtype)
    (y,) = kernel(**call_arguments(x))
    assert y.dtype == dtype
    assert mx.array_equal(y, x + x)


def test_non_contiguous_input(clang):
    source = "uint i = thread_position_in_grid.x; y[i] = x[i];"
    x = mx.arange(32.0).reshape(4, 8).T
    shapes = {"output_shapes": [(32,)]}
    copied = mslsim.metal_kernel("copy", ["x"], ["y"], source)
    np.testing.assert_array_equal(copied(**call_arguments(x, **shapes))[0], np.array(x).reshape(-1))
    raw = mslsim.metal_kernel(
        *("raw", ["x"], ["y"]),
        "uint i = thread_position_in_grid.x; "
        "y[i] = x[i / x_shape[1] * x_strides[0] + i % x_shape[1] * x_strides[1]];",
        ensure_row_contiguous=False,
    )
    strided = np.arange(64, dtype=np.float32).reshape(4, 16)[:, ::2].T
    np.testing.assert_array_equal(raw(**call_arguments(strided, **shapes))[0], strided.reshape(-1))


def test_init_value_and_atomics(clang):
    kernel = mslsim.metal_kernel(
        *("count", ["x"], ["y"]),
        "atomic_fetch_add_explicit(&y[0], x[thread_position_in_grid.x], memory_order_relaxed);",
        atomic_outputs=True,
    )
    x = mx.arange(40).astype(mx.int32)
    for order in mslsim.ORDERS:
        with mslsim.options(order=order):
            (y,) = kernel(**call_arguments(x, output_shapes=[(1,)], init_value=5))
        assert y.item() == 5 + 780
    with pytest.raises(mslsim.UninitialisedError):
        kernel(**call_arguments(x, output_shapes=[(1,)]))


def test_outputs_are_poisoned(clang):
    kernel = mslsim.metal_kernel("none", ["x"], ["y"], "if (x[0] > 1) y[0] = x[0];")
    with mslsim.options(allow={"unwritten"}):
        (y,) = kernel(**call_arguments(mx.zeros(40)))
    assert mx.all(mx.isnan(y))
    with pytest.raises(mslsim.UnwrittenError, match="40 of 40 elements never written"):
        kernel(**call_arguments(mx.zeros(40)))


def test_edge_threadgroups_are_smaller(clang):
    """As dispatchThreads makes them: 40 x 3 threads in threadgroups of 16 x 2."""
    source = """
        uint i = thread_position_in_grid.y * threads_per_grid.x + thread_position_in_grid.x;
        y[i] = threads_per_threadgroup.x * 100 + threads_per_threadgroup.y;
    """
    kernel = mslsim.metal_kernel("edges", ["x"], ["y"], source)
    x = mx.zeros((3, 40))
    (y,) = kernel(**call_arguments(x, grid=(40, 3, 1), threadgroup=(16, 2, 1)))
    expected = np.full((3, 40), 1602)
    expected[:, 32:] = 802
    expected[2] -= 1
    np.testing.assert_array_equal(y, expected)


def test_simd_functions_give_what_metal_gives(clang):
    source = """
        uint i = thread_position_in_grid.x;
        y[i] = simd_sum(x[i]);
        y[i + 64] = simd_prefix_exclusive_sum(x[i]);
        y[i + 128] = simd_shuffle_xor(x[i], 5);
        y[i + 192] = simd_shuffle_down(x[i], 1) + simd_shuffle_up(x[i], 1);
        y[i + 256] = simd_max(x[i]) + quad_sum(x[i]);
    """
    kernel = mslsim.metal_kernel("simd", ["x"], ["y"], source)
    x = np.random.default_rng(0).integers(0, 100, 64).astype(np.float32)
    lanes, i = x.reshape(2, 32), np.arange(32)
    expected = [
        np.repeat(lanes.sum(1), 32),
        np.cumsum(lanes, 1) - lanes,
        lanes[:, i ^ 5],
        lanes[:, np.minimum(i + 1, 31)] + lanes[:, np.maximum(i - 1, 0)],
        lanes.max(1)[:, None] + np.repeat(lanes.reshape(2, 8, 4).sum(2), 4, 1),
    ]
    for order in mslsim.ORDERS:
        with mslsim.options(order=order):
            (y,) = kernel(**call_arguments(x, threadgroup=(64, 1, 1), output_shapes=[(320,)]))
        np.testing.assert_array_equal(y, np.concatenate([e.reshape(-1) for e in expected]), order)


def test_simdgroup_matrices_multiply(clang):
    source = """
        simdgroup_float8x8 a, b, c;
        simdgroup_load(a, x, 8);
        simdgroup_load(b, x + 64, 8, ulong2(0), true);
        simdgroup_multiply(c, a, b);
        simdgroup_store(c, y, 8);
    """
    kernel = mslsim.metal_kernel("matmul", ["x"], ["y"], source)
    x = np.random.default_rng(0).standard_normal((2, 8, 8)).astype(np.float32)
    (y,) = kernel(**call_arguments(x, grid=(32, 1, 1), output_shapes=[(8, 8)]))
    np.testing.assert_allclose(y, x[0] @ x[1].T, atol=1e-5)


def test_verbose_prints_the_text(clang, capsys):
    kernel = mslsim.metal_kernel("twice", ["x"], ["y"], TWICE)
    kernel(**call_arguments(mx.zeros(40), verbose=True))
    assert "[[kernel]] void custom_kernel_twice_float_float(" in capsys.readouterr().out


def test_counts_are_checked():
    kernel = mslsim.metal_kernel("twice", ["x"], ["y"], TWICE)
    with pytest.raises(ValueError, match="Expected `inputs` to have size 1 but got size 2"):
        kernel(**call_arguments(mx.zeros(40), inputs=[mx.zeros(40)] * 2))
    with pytest.raises(ValueError, match="at least one output"):
        mslsim.metal_kernel("twice", ["x"], [], TWICE)
    with pytest.raises(ValueError, match="Metal has no float64"):
        kernel(**call_arguments(np.zeros(40)))


@pytest.mark.parametrize(
    "wrong", [{"order": "sideways"}, {"mode": "slow"}, {"metal_versions": (300,)}, {"sped": 1}]
)
def test_options_are_checked(wrong):
    with pytest.raises(ValueError, match=r"\[mslsim\]"), mslsim.options(**wrong):
        pass


METAL_FILE = """
#include <metal_stdlib>
using namespace metal;
constant int scale [[function_constant(0)]];
constant bool shift [[function_constant(1)]];
template <typename T>
[[kernel]] void scaled(device const T* x [[buffer(0)]], device T* y [[buffer(1)]],
                       constant int& n [[buffer(2)]], threadgroup T* s [[threadgroup(0)]],
                       uint i [[thread_position_in_grid]],
                       uint j [[thread_position_in_threadgroup]]) {
  if (int(i) < n) s[j] = x[i] * T(scale);
  if (int(i) < n) y[i] = s[j] + (is_function_constant_defined(shift) ? T(1) : T(0));
}
template [[host_name("scaled_float")]] [[kernel]] decltype(scaled<float>) scaled<float>;
kernel void plain(device float* y [[buffer(0)]], uint i [[thread_position_in_grid]]) { y[i] = i; }
"""


def test_kernel_of_a_metal_file(clang):
    kernel = mslsim.Kernel(METAL_FILE, "scaled_float", file="scaled.metal", constants={0: 3})
    assert [s.name for s in kernel.slots] == ["x", "y", "n", "s"]
    x, y = np.arange(20, dtype=np.float32), np.zeros(20, np.float32)
    buffers = {
        "x": mslsim.Buffer(x),
        "y": mslsim.Buffer(y, output=True, initialised=False),
        "n": mslsim.Buffer(np.array([20], np.int32), constant=True),
    }
    stats = mslsim.launch(kernel, buffers, (20, 1, 1), (8, 1, 1), threadgroup_memory={0: 32})
    np.testing.assert_array_equal(y, 3 * x)
    assert stats.threadgroup_bytes == 32
    with pytest.raises(mslsim.OutOfBoundsError) as caught:
        mslsim.launch(kernel, buffers, (20, 1, 1), (8, 1, 1), threadgroup_memory={0: 16})
    assert caught.value.findings[0].where == "scaled.metal:11"


def test_kernel_that_is_no_template(clang):
    kernel = mslsim.Kernel(METAL_FILE, "plain", constants={0: 3, 1: True})
    y = np.zeros(5, np.float32)
    buffers = {"y": mslsim.Buffer(y, output=True, initialised=False)}
    mslsim.launch(kernel, buffers, (5, 1, 1), (8, 1, 1))
    np.testing.assert_array_equal(y, np.arange(5))
    with pytest.raises(mslsim.LanguageError, match="no kernel 'missing'"):
        mslsim.Kernel(METAL_FILE, "missing")


@pytest.mark.parametrize("stride_log2", [0, 26])
def test_a_small_address_reservation_does_the_same(clang, stride_log2):
    """A small reservation does the same, and refuses buffers that it cannot place."""
    kernel = mslsim.Kernel(METAL_FILE, "plain", constants={0: 3, 1: True})
    y = np.zeros(5, np.float32)
    buffers = {"y": mslsim.Buffer(y, output=True, initialised=False)}
    stats = mslsim.launch(kernel, buffers, (5, 1, 1), (8, 1, 1), stride_log2=stride_log2)
    assert stats.stride_log2 == (stride_log2 or stats.stride_log2)
    with pytest.raises(mslsim.OutOfBoundsError, match="element 5 of 5"):
        mslsim.launch(kernel, buffers, (6, 1, 1), (8, 1, 1), stride_log2=stride_log2)
    if stride_log2:
        large = {"y": mslsim.Buffer(np.zeros(2**23, np.float32), output=True)}
        with pytest.raises(mslsim.LaunchError, match="33554432 bytes, this process can place"):
            mslsim.launch(kernel, large, (5, 1, 1), (8, 1, 1), stride_log2=stride_log2)


def test_memory_of_the_process_is_out_of_bounds(clang):
    """An access that leaves even the reservation must not read what lies there."""
    text = "kernel void stray(device float* y [[buffer(0)]], constant ulong& at [[buffer(1)]]) {"
    kernel = mslsim.Kernel(text + " y[0] = *(const device float*)at; }", "stray")
    elsewhere = np.ones(1, np.float32)
    buffers = {
        "y": mslsim.Buffer(np.zeros(1, np.float32), output=True),
        "at": mslsim.Buffer(np.array([elsewhere.ctypes.data], np.uint64), constant=True),
    }
    with pytest.raises(mslsim.OutOfBoundsError, match="outside of any buffer") as caught:
        mslsim.launch(kernel, buffers, (1, 1, 1), (1, 1, 1))
    assert caught.value.findings[0].where == "kernel.metal:1"


def run_python(code, **environ):
    simulator = str(Path(__file__).parents[1])
    path = os.pathsep.join([simulator, os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path} | environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_address_reservation_shrinks_under_a_limit(clang):
    code = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (64 << 30, 64 << 30))
import mslsim, numpy as np
k = mslsim.metal_kernel("twice", ["x"], ["y"], "y[thread_position_in_grid.x] = 1;")
(y,) = k(inputs=[np.zeros(8, np.float32)], grid=(8, 1, 1), threadgroup=(8, 1, 1),
         output_shapes=[(8,)], output_dtypes=[np.float32])
print(y.sum(), k.stats.stride_log2)
"""
    done = run_python(code)
    assert done.stdout.split() == ["8.0", "28"], done.stderr


def test_without_clang_tests_skip_or_fail():
    code = """
import mslsim, pytest
print(mslsim.available())
try:
    mslsim.require()
except pytest.skip.Exception as reason:
    print("skipped:", reason)
"""
    missing = {"MSLSIM_CLANG": "no-such-clang"}
    skipped = run_python(code, MSLSIM_REQUIRE="0", **missing)
    assert "skipped: mslsim: no clang >= 17 found (no-such-clang" in skipped.stdout
    failed = run_python(code, MSLSIM_REQUIRE="1", **missing)
    assert "MSLSIM_REQUIRE is set, but no clang >= 17 found" in failed.stderr
    assert failed.returncode == 1


def test_old_compilers_are_refused(tmp_path):
    old = tmp_path / "clang"
    old.write_text("#!/bin/sh\necho 'clang version 14.0.6'\n")
    old.chmod(0o755)
    done = run_python("import mslsim; print(mslsim.available())", MSLSIM_CLANG=str(old))
    assert "is clang version 14.0.6" in done.stdout


@pytest.mark.parametrize("system", ["g++", None])
def test_ziglang_is_called_by_its_commands(monkeypatch, system):
    monkeypatch.setenv("MSLSIM_CLANG", "python -m ziglang c++")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(compiler.shutil, "which", lambda name: name == system)
    ((clang, link, cxx),) = compiler._candidates()
    assert clang == ("python", "-m", "ziglang", "clang")
    assert link == ("python", "-m", "ziglang", "ld.lld")
    assert cxx[:4] == ((system,) if system else ("python", "-m", "ziglang", "c++"))


def test_ziglang_package_is_found_without_clang(monkeypatch, tmp_path):
    (tmp_path / "ziglang").mkdir()
    (tmp_path / "ziglang" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("MSLSIM_CLANG", raising=False)
    monkeypatch.setattr(compiler.shutil, "which", lambda name: None)
    ((clang, _, _),) = compiler._candidates()
    assert clang == (str(tmp_path / "ziglang" / "zig"), "clang")


def test_cache_is_used(clang, tmp_path, monkeypatch):
    monkeypatch.setattr(compiler, "cache_dir", lambda: tmp_path)
    mslsim.Kernel(METAL_FILE, "plain", constants={0: 3})
    first = {p.name: p.stat().st_ino for p in tmp_path.iterdir()}
    assert {Path(name).suffix for name in first if "headers" not in name} == {".so", ".json"}
    mslsim.Kernel(METAL_FILE, "plain", constants={0: 3})
    assert {p.name: p.stat().st_ino for p in tmp_path.iterdir()} == first
    mslsim.Kernel(METAL_FILE, "plain", constants={0: 4})
    assert len(list(tmp_path.iterdir())) == len(first) + 2
