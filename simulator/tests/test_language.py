"""Rules of the Metal language: what must be refused, and look-alikes that must not."""

import mlx.core as mx
import mslsim
import numpy as np
import pytest

I = "uint i = thread_position_in_grid.x; "
ATOMIC = "device atomic<uint>* p = (device atomic<uint>*)o; "


@pytest.fixture(autouse=True)
def _clang():
    mslsim.require()


def run(source, header="", dtype=mx.float32, template=None, name="k"):
    """Run a kernel that reads a[64] and writes o[64], with line numbers from 1 in its source."""
    kernel = mslsim.metal_kernel(name, ["a"], ["o"], source, header=header)
    (out,) = kernel(
        inputs=[mx.arange(64).astype(dtype)],
        template=template,
        grid=(64, 1, 1),
        threadgroup=(64, 1, 1),
        output_shapes=[(64,)],
        output_dtypes=[dtype],
    )
    return np.array(out.astype(mx.float32))


# name: (kind, source, header)
REFUSED = {
    "threadgroup pointer for a device parameter": (
        "compile",
        I + "threadgroup float s[64]; s[i] = a[i]; o[i] = ld(s, i);",
        "inline float ld(const device float* p, uint i) { return p[i]; }",
    ),
    "device pointer for a thread parameter": (
        "compile",
        I + "o[i] = ld(a, i);",
        "inline float ld(const thread float* p, uint i) { return p[i]; }",
    ),
    "cast from device to threadgroup": ("compile", I + "o[i] = ((threadgroup float*)o)[i];"),
    "local pointer without an address space": (
        "no-address-space",
        I + "float x[2] = {a[i], 1}; float* p = x; o[i] = p[0];",
    ),
    "parameter without an address space": (
        "no-address-space",
        I + "o[i] = ld(a, i);",
        "inline float ld(const float* p, uint i) { return p[i]; }",
    ),
    "reference without an address space": (
        "no-address-space",
        I + "float x = a[i]; inc(x); o[i] = x;",
        "inline void inc(float& x) { x += 1; }",
    ),
    "cast without an address space": ("no-address-space", I + "o[i] = *(const float*)(a + i);"),
    "recursion": (
        "recursion",
        I + "o[i] = f(3) + a[i];",
        "inline float f(int n) { if (n == 0) return 0; return f(n - 1) + 1; }",
    ),
    "mutual recursion": (
        "recursion",
        I + "o[i] = f(3) + a[i];",
        "float g(int n); inline float f(int n) { return n ? g(n - 1) : 0; } "
        "inline float g(int n) { return f(n) + 1; }",
    ),
    "double": ("banned", I + "double x = a[i]; o[i] = x;"),
    "function pointer": (
        "compile",
        I + "float (*p)(float) = f; o[i] = p(a[i]);",
        "inline float f(float x) { return x; }",
    ),
    "new": ("compile", I + "thread float* p = new float[2]; o[i] = p[0];"),
    "virtual": ("banned", I + "o[i] = a[i];", "struct S { virtual void f(); };"),
    "std": ("banned", I + "o[i] = std::exp(a[i]);"),
    "goto": ("banned", I + "float x = a[i]; if (x < 0) goto e; x = 1; e: o[i] = x;"),
    "lambda": ("lambda", I + "auto f = [](float x) { return x + 1; }; o[i] = f(a[i]);"),
    "mutable static local": ("compile", I + "static int c = 0; o[i] = a[i] + c;"),
    "mutable global": ("compile", I + "o[i] = a[i] + c;", "float c = 1;"),
    "constexpr global that is not constant": (
        "compile",
        I + "o[i] = a[i] + c;",
        "constexpr float c = 1;",
    ),
    "variable-length array": (
        "compile",
        I + "int n = int(a[i]) + 1; float x[n]; x[0] = 1; o[i] = x[0];",
    ),
    "threadgroup variable in a helper": (
        "tg-scope",
        I + "o[i] = f(a[i], i);",
        "inline float f(float x, uint i) { threadgroup float s[64]; s[i] = x; return s[i]; }",
    ),
    "threadgroup variable in a nested block": (
        "tg-nested",
        I + "{ threadgroup float s[64]; s[i] = a[i]; o[i] = s[i]; }",
    ),
    "threadgroup variable with an initialiser": (
        "tg-init",
        I + "threadgroup float s = 1; o[i] = a[i] + s;",
    ),
    "min of uint and int": ("compile", I + "int n = 3; o[i] = a[min(i, n)];"),
    "max of half and float": ("compile", I + "half h = half(a[i]); o[i] = max(h, 0.0f);"),
    "64-bit SIMD sum": ("compile", I + "long x = long(a[i]); o[i] = float(simd_sum(x));"),
    "64-bit atomic sum": (
        "compile",
        "device atomic<ulong>* p = (device atomic<ulong>*)o; "
        "atomic_fetch_add_explicit(p, 1ul, memory_order_relaxed);",
    ),
    "release order before Metal 3.2": (
        "compile",
        ATOMIC + "atomic_store_explicit(p, 1u, memory_order_release);",
    ),
    "vector cast that means something else": (
        "vector-cast",
        I + "int4 v = int4(1, 2, 3, 4); float4 f = (float4)v; o[i] = f.x + a[i];",
    ),
    "uninitialised variable": (
        "uninit-variable",
        I + "float x; if (a[i] > 3) x = 1; o[i] = x;",
    ),
    "unqualified method on device data": (
        "method-address-space",
        I + "const device S* s = (const device S*)a; o[i] = s[i].get();",
        "struct S { float v; float get() const { return v; } };",
    ),
    "reserved word as a variable": ("reserved", I + "float kernel = a[i]; o[i] = kernel;"),
    "address space as a variable": ("reserved", I + "uint thread = 3; o[i] = a[thread];"),
    "type as a variable": ("reserved", I + "float bfloat = a[i]; o[i] = bfloat;"),
    "vector type as a field": (
        "reserved",
        I + "S s; s.float4 = a[i]; o[i] = s.float4;",
        "struct S { float float4; };",
    ),
}

# name: (source, template)
REFUSED_BFLOAT = {
    "assigned a float": (I + "float x = a[i]; o[i] = x;", None),
    "initialised with a literal": (I + "bfloat16_t x = 0.0; o[i] = x + a[i];", None),
    "ternary with a float": (I + "o[i] = i < 3 ? a[i] : -INFINITY;", None),
    "compound assignment": (I + "bfloat16_t x = a[i]; x += 1.5f; o[i] = x;", None),
    "in a template": (I + "float x = a[i]; T y = x; o[i] = y;", [("T", mx.bfloat16)]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_metal_is_refused(name):
    kind, source, *header = REFUSED[name]
    error = mslsim.CompileError if kind == "compile" else mslsim.LanguageError
    with pytest.raises(error) as caught:
        run(source, *header)
    assert kind in caught.value.kinds, str(caught.value)
    assert caught.value.findings[0].where in ("k.source:1", "k.header:1")


@pytest.mark.parametrize("name", REFUSED_BFLOAT)
def test_bfloat_conversion_refused(name):
    source, template = REFUSED_BFLOAT[name]
    with pytest.raises(mslsim.LanguageError) as caught:
        run(source, dtype=mx.bfloat16, template=template)
    assert caught.value.kinds == {"bfloat-implicit"}, str(caught.value)


A = np.arange(64, dtype=np.float32)

# name: (source, header, dtype, template, what it computes)
VALID = {
    "plain": (I + "o[i] = a[i] * 2.0;", "", mx.float32, None, A * 2),
    "vector constructor": (
        *(I + "int4 v = int4(1, 2, 3, 4); float4 f = float4(v); o[i] = f.x + a[i];", ""),
        *(mx.float32, None, A + 1),
    ),
    "mixed vector constructor": (
        *(I + "float3 v(a[i], float2(1, 2)); o[i] = v.x * v.y * v.z;", ""),
        *(mx.float32, None, A * 2),
    ),
    "qualified method": (
        I + "const device S* s = (const device S*)a; o[i] = s[i].get();",
        "struct S { float v; float get() const device { return v; } };",
        *(mx.float32, None, A),
    ),
    "words of OpenCL as names": (
        *(I + "float local = a[i], global = 1, pipe = 2; o[i] = local + global * pipe;", ""),
        *(mx.float32, None, A + 2),
    ),
    "reserved word in a comment, a string of it in a name": (
        *(I + "float kernels = a[i]; /* kernel = */ o[i] = kernels; // device = 3", ""),
        *(mx.float32, None, A),
    ),
    "initialised on every path": (
        *(I + "float x; if (a[i] > 3) x = 1; else x = 0; o[i] = x;", ""),
        *(mx.float32, None, A > 3),
    ),
    "lookup table": (
        I + "o[i] = a[i] + table[i & 1];",
        "constant float table[2] = {1, 2};",
        *(mx.float32, None, A + 1 + (np.arange(64) & 1)),
    ),
    "pointer to threadgroup memory": (
        I + "threadgroup float s[64]; threadgroup float* p = s; p[i] = a[i]; o[i] = p[i];",
        "",
        *(mx.float32, None, A),
    ),
    "template helper over the pointer": (
        I + "o[i] = ld(a, i);",
        "template <typename P> inline float ld(P p, uint i) { return p[i]; }",
        *(mx.float32, None, A),
    ),
    "bfloat through a function of MLX": (
        *(I + "o[i] = metal::abs(a[i]);", "", mx.bfloat16, None, A),
    ),
    "bfloat with an explicit cast": (
        *(I + "float x = a[i]; o[i] = static_cast<T>(x);", "", mx.bfloat16),
        *([("T", mx.bfloat16)], A),
    ),
    "implicit conversion in a float template": (
        *(I + "float x = a[i]; T y = x; o[i] = y;", "", mx.float32, [("T", mx.float32)], A),
    ),
}


@pytest.mark.parametrize("name", VALID)
def test_what_is_metal_runs(name):
    *arguments, expected = VALID[name]
    np.testing.assert_array_equal(run(*arguments), expected)


LAMBDA = I + "auto f = [](float x) { return x + 1; }; o[i] = f(a[i]);"
ORDERED = ATOMIC + "atomic_thread_fence(mem_flags::mem_device, memory_order_seq_cst); " + I
NEWEST_ONLY = {"lambda": LAMBDA, "fence": ORDERED + "o[i] = a[i] + 1;"}


@pytest.mark.parametrize("name", NEWEST_ONLY)
def test_the_oldest_level_asked_for_decides(name):
    """Metal 4.0 takes what 3.1 refuses; asked for both, the older one decides."""
    source = NEWEST_ONLY[name]
    with mslsim.options(metal_versions=(400,)):
        np.testing.assert_array_equal(run(source), A + 1)
    for versions in ((310,), (310, 400), (400, 310)):
        with mslsim.options(metal_versions=versions), pytest.raises(mslsim.MSLError):
            run(source)


def test_version_macro_is_the_level():
    source = I + "o[i] = __METAL_VERSION__;"
    for version in (310, 400):
        with mslsim.options(metal_versions=(version,)):
            np.testing.assert_array_equal(run(source), np.full(64, version))


def test_allowed_kinds_become_warnings():
    source = I + "float x[1] = {a[i]}; float* p = x; o[i] = p[0];"
    with mslsim.options(allow={"no-address-space"}):
        np.testing.assert_array_equal(run(source), A)


def test_lines_of_source_and_header():
    with pytest.raises(mslsim.CompileError) as caught:
        run(I + "\no[i] = a[i];\no[i] = missing;", header="// one\n// two\n")
    assert [f.where for f in caught.value.findings] == ["k.source:3"]
    with pytest.raises(mslsim.CompileError) as caught:
        run(I + "o[i] = a[i];", header="// one\ninline float f() { return missing; }\n")
    assert [f.where for f in caught.value.findings] == ["k.header:2"]
