"""Published bugs of order: missing and wrong barriers, divergence, SIMD groups."""

from __future__ import annotations

import numpy as np

from .public_bugs import Bug, normal

GITHUB = "https://github.com/"


def normalised(x: np.ndarray) -> np.ndarray:
    """(x - mean) / sqrt(variance + 1e-5)."""
    return (x - x.mean()) / np.sqrt(x.astype(np.float64).var() + 1e-5)


RACES = {
    "a buffer of partial sums is written again while others read it": Bug(
        "MLX",
        GITHUB + "ml-explore/mlx/pull/2340",
        "race",
        """
        threadgroup float part[4];
        float sum = simd_sum(x[i]);
        if (lane == 0) part[s] = sum;
        BARRIER
        float d = x[i] - (part[0] + part[1] + part[2] + part[3]) / 128;
        BARRIER  // the mean is read
        float squares = simd_sum(d * d);
        if (lane == 0) part[s] = squares;
        BARRIER
        y[i] = d * precise::rsqrt((part[0] + part[1] + part[2] + part[3]) / 128 + 1e-5f);
        """,
        ("BARRIER  // the mean is read", ""),
        {"x": normal(128)},
        {"y": (128,)},
        lambda x: [normalised(x)],
        threads=128,
    ),
    "barriers with mem_none between levels of a tree": Bug(
        "mlx-lm",
        GITHUB + "ml-explore/mlx-lm/pull/1714",
        "race",
        """
        threadgroup float v[64];
        v[i] = x[i];
        BARRIER
        for (uint half_way = 32; half_way > 0; half_way /= 2) {
          if (i < half_way) v[i] = max(v[i], v[i + half_way]);
          threadgroup_barrier(mem_flags::mem_threadgroup);
        }
        if (i == 0) y[0] = v[0];
        """,
        (
            "threadgroup_barrier(mem_flags::mem_threadgroup);",
            "threadgroup_barrier(mem_flags::mem_none);",
        ),
        {"x": normal(64)},
        {"y": (1,)},
        lambda x: [x.max(keepdims=True)],
    ),
    "a mean that one thread writes and all read at once": Bug(
        "llama.cpp",
        GITHUB + "ggml-org/llama.cpp/pull/3057",
        "race",
        """
        threadgroup float mean[1];
        if (i == 0) {
          float sum = 0;
          for (uint k = 0; k < 64; k++) sum += x[k];
          mean[0] = sum / 64;
        }
        BARRIER
        y[i] = x[i] - mean[0];
        """,
        ("BARRIER\n        y", "\n        y"),
        {"x": normal(64)},
        {"y": (64,)},
        lambda x: [x - x.mean(dtype=np.float64)],
    ),
    "pairs of mean and square sum merged without a barrier": Bug(
        "PyTorch",
        GITHUB + "pytorch/pytorch/pull/184328",
        "race",
        """
        threadgroup float2 part[64];
        part[i] = float2(x[i], 0);
        BARRIER
        float count = 1;
        for (uint half_way = 32; half_way > 0; half_way /= 2, count *= 2) {
          if (i < half_way) {
            float2 a = part[i], b = part[i + half_way];
            float d = b.x - a.x;
            part[i] = float2(a.x + d / 2, a.y + b.y + d * d * count / 2);
          }
          BARRIER  // merged
        }
        if (i == 0) y[0] = part[0].y / 64;
        """,
        ("BARRIER  // merged", ""),
        {"x": normal(64)},
        {"y": (1,)},
        lambda x: [x.astype(np.float64).var(keepdims=True)],
    ),
    "threadgroup memory of the host's size, for which no barrier was written": Bug(
        "tilelang",
        GITHUB + "tile-ai/tilelang/pull/2738",
        "race",
        """
        kernel void f(const device float* x [[buffer(0)]], device float* y [[buffer(1)]],
                      threadgroup float* tile [[threadgroup(0)]],
                      uint i [[thread_position_in_threadgroup]]) {
          tile[i] = x[i];
          BARRIER
          y[i] = tile[63 - i];
        }
        """,
        ("BARRIER", ""),
        {"x": normal(64)},
        {"y": (64,)},
        lambda x: [x[::-1]],
        blocks={0: 256},
    ),
    "matrices that one SIMD group stores and another loads": Bug(
        "tilelang",
        GITHUB + "tile-ai/tilelang/pull/2970",
        "race",
        """
        threadgroup float tile[128];
        simdgroup_float8x8 m;
        simdgroup_load(m, x + 64 * s, 8);
        simdgroup_store(m, tile + 64 * s, 8);
        BARRIER
        simdgroup_load(m, tile + 64 * (1 - s), 8);
        simdgroup_store(m, y + 64 * s, 8);
        """,
        ("BARRIER", "simdgroup_barrier(mem_flags::mem_threadgroup);"),
        {"x": normal(128)},
        {"y": (128,)},
        lambda x: [np.roll(x, 64)],
    ),
    "device memory behind a barrier for threadgroup memory": Bug(
        "Metal.jl",
        GITHUB + "JuliaGPU/Metal.jl/issues/608",
        "race",
        """
        scratch[i] = 2 * x[i];
        threadgroup_barrier(mem_flags::mem_device);
        y[i] = scratch[63 - i];
        """,
        ("mem_device", "mem_threadgroup"),
        {"x": normal(64)},
        {"scratch": (64,), "y": (64,)},
        lambda x: [2 * x, 2 * x[::-1]],
    ),
    "the results of another threadgroup behind a barrier": Bug(
        "ds4",
        GITHUB + "antirez/ds4/pull/837",
        "race",
        """
        if (i == 0) cache[g] = 2 * x[g];
        threadgroup_barrier(mem_flags::mem_device);
        float other = 2 * x[1 - g];
        y[g * 64 + i] = other;
        """,
        ("other = 2 * x[1 - g]", "other = cache[1 - g]"),
        {"x": normal(64)},
        {"cache": (2,), "y": (128,)},
        lambda x: [2 * x[:2], np.repeat(2 * x[1::-1], 64)],
        groups=2,
    ),
    "surplus threads return before a barrier": Bug(
        "vllm-mlx",
        GITHUB + "waybarrios/vllm-mlx/pull/721",
        "barrier",
        """
        threadgroup float v[48];
        if (i < 48) v[i] = x[i];
        BARRIER
        if (i < 48) y[i] = v[47 - i];
        """,
        ("if (i < 48) v[i]", "if (i >= 48) return; v[i]"),
        {"x": normal(48)},
        {"y": (48,)},
        lambda x: [x[::-1]],
    ),
    "a barrier in one branch": Bug(
        "MoltenVK",
        GITHUB + "KhronosGroup/MoltenVK/issues/973",
        "barrier",
        """
        threadgroup float v[64];
        v[i] = x[i];
        BARRIER  // all of them
        y[i] = i < 32 ? v[i + 32] : x[i];
        """,
        ("BARRIER  // all of them", "if (i < 32) { BARRIER }"),
        {"x": normal(64)},
        {"y": (64,)},
        lambda x: [np.concatenate([x[32:], x[32:]])],
    ),
    "simd_max within the branch of one lane": Bug(
        "PyTorch",
        GITHUB + "pytorch/pytorch/pull/181503",
        "simd-divergent",
        """
        threadgroup float part[2];
        float top = simd_max(x[i]);
        if (lane == 0) part[s] = top;
        BARRIER
        y[i] = x[i] - max(part[0], part[1]);
        """,
        (
            "float top = simd_max(x[i]);\n        if (lane == 0) part[s] = top;",
            "if (lane == 0) part[s] = simd_max(x[i]);",
        ),
        {"x": normal(64)},
        {"y": (64,)},
        lambda x: [x - x.max()],
    ),
    "a tree of shuffles over lanes that a small SIMD group does not have": Bug(
        "PyTorch",
        GITHUB + "pytorch/pytorch/pull/150566",
        "simd-inactive",
        """
        float sum = simd_sum(x[i]);
        if (lane == 0) y[s] = sum;
        """,
        (
            "float sum = simd_sum(x[i]);",
            "float sum = x[i];\n"
            "for (ushort d = 16; d > 0; d /= 2) sum += simd_shuffle_down(sum, d);",
        ),
        {"x": normal(48)},
        {"y": (2,)},
        lambda x: [np.array([x[:32].sum(), x[32:].sum()])],
        threads=48,
    ),
}
