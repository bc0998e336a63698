// The CfC's sums over what a stage reads by simdgroup_matrix: 8 columns of 8 or 16 rows by a SIMD
// group. Metal only, in the kernels of the flag MATRIX; after "math.h".
#pragma once
#include <metal_simdgroup_matrix>

// sum over i of weights[i][c] read[i][r], for the 8 columns c from `weights` and `out` on and the
// ROWS rows r. All threads of a SIMD group call it, each keeps the column lane / 4 and of the rows
// q the elements 4 q + lane % 4.
//
//   own [WIDE][ROWS] : a thread's sums, the first ROWS / 4 of each; WIDE products of one `read`
//   weights, stride  : the first of the columns, and what is between two lines i; all in tiles of 8
//   next             : from the weights of one product to those of the next
//   read [depth][ROWS], out [..][ROWS] : threadgroup memory; `lines` from one product to the next
template <int ROWS, int WIDE, typename Weights>
inline void ncps_matrix_sums(thread float* own, Weights weights, uint stride, uint next,
                             const threadgroup float* read, uint depth, threadgroup float* out,
                             uint lines, uint lane) {
  static_assert(ROWS == 8 || ROWS == 16, "whole tiles of rows");
  metal::simdgroup_float8x8 sum[WIDE * ROWS / 8];
  NCPS_UNROLL
  for (int n = 0; n < WIDE * ROWS / 8; ++n) {
    sum[n] = metal::make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  }
  for (uint i = 0u; i < depth; i += 8u, read += 8 * ROWS, weights += 8u * stride) {
    metal::simdgroup_float8x8 rows[ROWS / 8];
    NCPS_UNROLL
    for (int n = 0; n < ROWS / 8; ++n) {
      metal::simdgroup_load(rows[n], read + 8 * n, ROWS, ulong2(0), true);
    }
    NCPS_UNROLL
    for (int w = 0; w < WIDE; ++w) {
      metal::simdgroup_float8x8 columns;
      metal::simdgroup_load(columns, weights + uint(w) * next, stride);
      NCPS_UNROLL
      for (int n = 0; n < ROWS / 8; ++n) {
        const int at = w * (ROWS / 8) + n;
        metal::simdgroup_multiply_accumulate(sum[at], rows[n], columns, sum[at]);
      }
    }
  }
  // Which elements a thread holds is not said: they go through memory, [column][row] as all there.
  NCPS_UNROLL
  for (int w = 0; w < WIDE; ++w) {
    threadgroup float* const to = out + uint(w) * lines * uint(ROWS);
    NCPS_UNROLL
    for (int n = 0; n < ROWS / 8; ++n) {
      metal::simdgroup_store(sum[w * (ROWS / 8) + n], to + uint(8 * n), ROWS, ulong2(0), true);
    }
  }
  simdgroup_barrier(mem_flags::mem_threadgroup);
  NCPS_UNROLL
  for (int w = 0; w < WIDE; ++w) {
    NCPS_UNROLL
    for (int q = 0; q < ROWS / 4; ++q) {
      own[w * ROWS + q] = out[(uint(w) * lines + lane / 4u) * uint(ROWS) + uint(4 * q) + lane % 4u];
    }
  }
}
