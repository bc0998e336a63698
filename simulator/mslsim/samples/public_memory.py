"""Published bugs of memory, numbers, limits and language."""

from __future__ import annotations

import numpy as np

from .public_bugs import Bug, normal, softmax

GITHUB = "https://github.com/"
SCORES = np.concatenate([np.full(32, -np.inf, np.float32), normal(32)])
INTEGERS = np.arange(64, dtype=np.float32)
WITH_NAN = np.where(np.arange(64) % 5 == 0, np.float32(np.nan), INTEGERS)

MEMORY = {
    "a row's maximum starts from beyond the row": Bug(
        "llama.cpp",
        GITHUB + "ggml-org/llama.cpp/pull/3194",
        "oob",
        """
        bool live = i < 20;
        float v = live ? x[g * 20 + i] : -INFINITY;
        float e = exp(v - simd_max(v));
        e /= simd_sum(e);
        if (live) y[g * 20 + i] = e;
        """,
        ("live ? x[g * 20 + i] : -INFINITY", "x[g * 20 + i]"),
        {"x": normal(3, 20)},
        {"y": (3, 20)},
        lambda x: [softmax(x)],
        threads=32,
        groups=3,
    ),
    "a depth that is no multiple of the tile": Bug(
        "MLX",
        GITHUB + "ml-explore/mlx/pull/3912",
        "oob",
        """
        float sum = 0;
        for (uint k = 0; k < 48; k += 32) sum += k + lane < 48 ? w[g * 48 + k + lane] : 0.0f;
        sum = simd_sum(sum);
        if (lane == 0) y[g] = sum;
        """,
        ("k + lane < 48 ? w[g * 48 + k + lane] : 0.0f", "w[g * 48 + k + lane]"),
        {"w": normal(4, 48)},
        {"y": (4,)},
        lambda w: [w.sum(-1)],
        threads=32,
        groups=4,
    ),
    "a guard that bounds the rows by the tile's depth": Bug(
        "rMLX",
        GITHUB + "Pushkinist/rMLX/issues/438",
        "oob",
        """
        constexpr int depth = 16, rows = 5;
        threadgroup float tile[8 * depth];
        for (int row = i / depth, k = i % depth; row < 8; row += 4)
          tile[row * depth + k] = row < rows ? w[row * depth + k] : 0.0f;
        BARRIER
        if (i < rows) {
          float sum = 0;
          for (int k = 0; k < depth; k++) sum += tile[i * depth + k];
          y[i] = sum;
        }
        """,
        ("row < rows ?", "row < depth ?"),
        {"w": normal(5, 16)},
        {"y": (5,)},
        lambda w: [w.sum(-1)],
    ),
    "vectors of three floats that the host packs": Bug(
        "wgpu",
        GITHUB + "gfx-rs/wgpu/issues/6996",
        "oob",
        """
        float3 p = float3(x[3 * i], x[3 * i + 1], x[3 * i + 2]);
        y[i] = dot(p, p);
        """,
        ("float3(x[3 * i], x[3 * i + 1], x[3 * i + 2])", "((const device float3*)x)[i]"),
        {"x": normal(64, 3)},
        {"y": (64,)},
        lambda x: [(x**2).sum(-1)],
    ),
    "float4 of rows whose length is no multiple of four": Bug(
        "llama.cpp",
        GITHUB + "ggml-org/llama.cpp/issues/3754",
        "ub",
        """
        const device float* row = x + i * 6;
        float4 first = float4(row[0], row[1], row[2], row[3]);
        y[i] = dot(first, float4(1)) + row[4] + row[5];
        """,
        ("float4(row[0], row[1], row[2], row[3])", "*(const device float4*)row"),
        {"x": normal(64, 6)},
        {"y": (64,)},
        lambda x: [x.sum(-1)],
    ),
    "the offset of a row of a large matrix in int": Bug(
        "MLX",
        GITHUB + "ml-explore/mlx/pull/3609",
        "ub",
        """
        int row = 12340 + int(i), width = 174000;  // w holds the first number of these rows
        long at = long(row) * width - 12340l * 174000;
        y[i] = w[at / width];
        """,
        ("long(row) * width", "row * width"),
        {"w": normal(8)},
        {"y": (8,)},
        lambda w: [w],
        threads=8,
    ),
    "an offset that wraps in uint": Bug(
        "PyTorch",
        GITHUB + "pytorch/pytorch/issues/189960",
        "wrap",
        """
        ulong at = ulong(65535 + i) * 65537u;
        y[i] = w[(at / 65537u + 1) % 64];
        """,
        ("ulong(65535 + i)", "(65535 + i)"),
        {"w": normal(64)},
        {"y": (64,)},
        lambda w: [w],
        options={"unsigned_overflow": True},
    ),
    "counters in threadgroup memory that nobody sets to zero": Bug(
        "WebKit",
        GITHUB + "WebKit/WebKit/pull/40362",
        "uninit",
        """
        threadgroup atomic_uint bins[8];
        if (i < 8) atomic_store_explicit(&bins[i], 0u, memory_order_relaxed);
        BARRIER
        atomic_fetch_add_explicit(&bins[uint(x[i]) % 8], 1u, memory_order_relaxed);
        BARRIER
        if (i < 8) y[i] = atomic_load_explicit(&bins[i], memory_order_relaxed);
        """,
        ("if (i < 8) atomic_store_explicit(&bins[i], 0u, memory_order_relaxed);", ""),
        {"x": INTEGERS},
        {"y": (8,)},
        lambda x: [np.bincount(x.astype(int) % 8)],
    ),
    "a chunk of scores that are all masked": Bug(
        "llama.cpp",
        GITHUB + "ggml-org/llama.cpp/pull/7434",
        "not-finite",
        """
        float top = -MAXFLOAT / 2, sum = 0, weighted = 0;
        for (uint k = lane; k < 64; k += 32) {
          float next = max(top, simd_max(score[k]));
          float keep = exp(top - next), w = exp(score[k] - next);
          sum = sum * keep + simd_sum(w);
          weighted = weighted * keep + simd_sum(w * v[k]);
          top = next;
        }
        if (lane == 0) y[0] = weighted / sum;
        """,
        ("-MAXFLOAT / 2", "-INFINITY"),
        {"score": SCORES, "v": normal(64)},
        {"y": (1,)},
        lambda score, v: [(softmax(score) * v).sum(keepdims=True)],
        threads=32,
        options={"finite": True},
    ),
    "a test for NaN in fast mathematics": Bug(
        "tinygrad",
        GITHUB + "tinygrad/tinygrad/pull/1260",
        "fast-math",
        """
        float v = x[i];
        bool missing = (as_type<uint>(v) & 0x7FFFFFFF) > 0x7F800000;
        y[i] = missing ? 0.0f : v;
        """,
        ("(as_type<uint>(v) & 0x7FFFFFFF) > 0x7F800000", "v != v"),
        {"x": WITH_NAN},
        {"y": (64,)},
        lambda x: [np.nan_to_num(x)],
        math_mode="fast",
    ),
    "a thread for each row, of which there are more than 1024": Bug(
        "ggml",
        GITHUB + "ggml-org/ggml/pull/1019",
        "limit",
        "uint row = g * threads_per_threadgroup.x + i; y[row] = 2 * x[row];",
        {"threads": 1500, "groups": 1},
        {"x": normal(1500)},
        {"y": (1500,)},
        lambda x: [2 * x],
        threads=500,
        groups=3,
    ),
    "more threads than the compiled kernel can have": Bug(
        "wgpu",
        GITHUB + "gfx-rs/wgpu/issues/9176",
        "limit",
        """
        [[max_total_threads_per_threadgroup(256)]]
        kernel void f(const device float* x [[buffer(0)]], device float* y [[buffer(1)]],
                      uint i [[thread_position_in_grid]]) {
          y[i] = 2 * x[i];
        }
        """,
        {"threads": 512, "groups": 1},
        {"x": normal(512)},
        {"y": (512,)},
        lambda x: [2 * x],
        threads=256,
        groups=2,
    ),
    "more than 32 KiB of threadgroup memory": Bug(
        "Metal.jl",
        GITHUB + "JuliaGPU/Metal.jl/pull/839",
        "limit",
        """
        threadgroup half tile[12288];
        for (uint k = i; k < 12288; k += 64) tile[k] = half(x[i]);
        BARRIER
        y[i] = tile[12287 - i];
        """,
        ("threadgroup half", "threadgroup float"),
        {"x": INTEGERS},
        {"y": (64,)},
        lambda x: [x[::-1]],
    ),
    "a grid that counts threadgroups": Bug(
        "MLX",
        GITHUB + "ml-explore/mlx/issues/4534",
        "unwritten",
        "y[g * 64 + i] = 2 * x[g * 64 + i];",
        {"grid": 3},
        {"x": normal(192)},
        {"y": (192,)},
        lambda x: [2 * x],
        groups=3,
    ),
    "integers of 8 bytes for arguments of 4": Bug(
        "Arraymancer",
        GITHUB + "mratsim/Arraymancer/pull/690",
        "argument",
        """
        kernel void f(const device float* x [[buffer(0)]], constant int& n [[buffer(1)]],
                      device float* y [[buffer(2)]], uint i [[thread_position_in_grid]]) {
          if (int(i) < n) y[i] = 2 * x[i];
        }
        """,
        {"inputs": {"x": normal(50), "n": np.array([50], np.int64)}},
        {"x": normal(50), "n": np.array([50], np.int32)},
        {"y": (50,)},
        lambda x, n: [2 * x],
    ),
    "bfloat from float without a cast": Bug(
        "CubeCL",
        GITHUB + "tracel-ai/cubecl/issues/1522",
        "bfloat-implicit",
        "bfloat16_t h = bfloat16_t(x[i]); y[i] = float(h);",
        ("bfloat16_t(x[i])", "x[i]"),
        {"x": INTEGERS},
        {"y": (64,)},
        lambda x: [x],
    ),
    "casts that lose the address space": Bug(
        "TVM",
        GITHUB + "apache/tvm/pull/20101",
        "no-address-space",
        """
        threadgroup float tile[64];
        threadgroup float* upper = (threadgroup float*)((threadgroup char*)tile + 128);
        tile[i] = x[i];
        BARRIER
        y[i] = upper[i % 32];
        """,
        (
            "threadgroup float* upper = (threadgroup float*)((threadgroup char*)tile + 128)",
            "float* upper = (float*)((char*)tile + 128)",
        ),
        {"x": INTEGERS},
        {"y": (64,)},
        lambda x: [np.tile(x[32:], 2)],
    ),
}
