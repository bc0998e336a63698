"""Two small kernels in the manner of a library that calls mx.fast.metal_kernel.

Each `run_*` takes the kernel's text, so that a test can plant a bug, and returns what it computes;
each `*_reference` is the same in float64.
"""

from __future__ import annotations

import numpy as np

import mslsim

# RMS norm: one threadgroup a row, sums by SIMD group and then over SIMD groups.
RMS = """
    uint row = threadgroup_position_in_grid.x;
    uint lid = thread_position_in_threadgroup.x;
    uint n = threads_per_threadgroup.x;
    threadgroup float part[32];
    threadgroup float inv[1];
    float acc = 0;
    for (uint i = lid; i < D; i += n) {
        float v = x[row * D + i];
        acc += v * v;
    }
    acc = simd_sum(acc);
    if (simdgroup_index_in_threadgroup == 0) part[thread_index_in_simdgroup] = 0;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (thread_index_in_simdgroup == 0) part[simdgroup_index_in_threadgroup] = acc;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (simdgroup_index_in_threadgroup == 0) {
        float s = simd_sum(part[thread_index_in_simdgroup]);
        if (thread_index_in_simdgroup == 0) inv[0] = metal::precise::rsqrt(s / D + eps);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint i = lid; i < D; i += n)
        out[row * D + i] = static_cast<T>(x[row * D + i] * inv[0]) * w[i];
"""

# Leaky recurrence h' = h + decay (tanh(x_t + W h) - h): one threadgroup a batch row.
RNN = """
    uint b = threadgroup_position_in_grid.x;
    uint j = thread_position_in_threadgroup.x;
    threadgroup float h[H];
    h[j] = h0[b * H + j];
    float tau = decay[j];
    const device T* wrow = w + j * H;
    threadgroup_barrier(mem_flags::mem_threadgroup);      // h is there
    for (int t = 0; t < Tn; t++) {
        float acc = x[(b * Tn + t) * H + j];
        for (int i = 0; i < H; i += 4) {
            float4 wv = float4(*(const device vec<T, 4>*)(wrow + i));
            float4 hv = float4(h[i], h[i + 1], h[i + 2], h[i + 3]);
            acc += dot(wv, hv);
        }
        float hn = h[j] + tau * (metal::precise::tanh(acc) - h[j]);
        threadgroup_barrier(mem_flags::mem_threadgroup);  // everyone has read h
        h[j] = hn;
        out[(b * Tn + t) * H + j] = static_cast<T>(hn);
        threadgroup_barrier(mem_flags::mem_threadgroup);  // everyone has written h
    }
"""


def rms_inputs(rows=3, columns=500):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, columns)).astype(np.float32)
    return x, rng.standard_normal(columns).astype(np.float32)


def run_rms(source=RMS, x=None, w=None, threads=128):
    if x is None:
        x, w = rms_inputs()
    kernel = mslsim.metal_kernel("rms", ["x", "w", "eps"], ["out"], source)
    (out,) = kernel(
        inputs=[x, w, np.float32(1e-5).reshape(())],
        template=[("T", x.dtype), ("D", x.shape[1])],
        grid=(x.shape[0] * threads, 1, 1),
        threadgroup=(threads, 1, 1),
        output_shapes=[x.shape],
        output_dtypes=[x.dtype],
    )
    return out


def rms_reference(x, w):
    x = x.astype(np.float64)
    return x / np.sqrt((x**2).mean(1, keepdims=True) + 1e-5) * w


def rnn_inputs(batch=2, steps=6, hidden=64, dtype=np.float32):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((batch, steps, hidden))
    w = rng.standard_normal((hidden, hidden)) / 8
    h0 = rng.standard_normal((batch, hidden))
    return [a.astype(dtype) for a in (x, w, h0, rng.random(hidden))]


def run_rnn(source=RNN, inputs=None, header=""):
    x, w, h0, decay = rnn_inputs() if inputs is None else inputs
    batch, steps, hidden = x.shape
    kernel = mslsim.metal_kernel("rnn", ["x", "w", "h0", "decay"], ["out"], source, header)
    (out,) = kernel(
        inputs=[x, w, h0, decay],
        template=[("T", x.dtype), ("H", hidden), ("Tn", steps)],
        grid=(batch * hidden, 1, 1),
        threadgroup=(hidden, 1, 1),
        output_shapes=[x.shape],
        output_dtypes=[x.dtype],
    )
    return out


def rnn_reference(x, w, h0, decay):
    x, w, h, decay = (a.astype(np.float64) for a in (x, w, h0, decay))
    out = np.zeros_like(x)
    for t in range(x.shape[1]):
        h = h + decay * (np.tanh(x[:, t] + h @ w.T) - h)
        out[:, t] = h
    return out
