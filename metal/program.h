// What the kernels of step programs are made of, whose text backends/gpu/programs writes; after
// "activations.h".
#pragma once

#if defined(__METAL_VERSION__)
inline float ncps_log(float z) { return metal::precise::log(z); }
inline float ncps_sqrt(float z) { return metal::precise::sqrt(z); }
#else
inline float ncps_log(float z) { return logf(z); }
inline float ncps_sqrt(float z) { return sqrtf(z); }
#endif

// ---- values of instructions, by value; NaN stays

inline float ncps_truth(bool c) { return c ? 1.0f : 0.0f; }
inline float ncps_sign(float a) { return a > 0.0f ? 1.0f : a < 0.0f ? -1.0f : a; }
inline float ncps_larger(float a, float b) { return a != a ? a : a > b ? a : b; }
inline float ncps_smaller(float a, float b) { return a != a ? a : a < b ? a : b; }
// ln u * a / (u - 1), u = 1 + a as it was rounded: so both errors are the same.
inline float ncps_log1p(float a) {
  const float u = a + 1.0f, below = u - 1.0f;
  return below == 0.0f ? a : u - u == 0.0f ? ncps_log(u) * (a / below) : u;
}
inline float ncps_logaddexp(float a, float b) {
  const float most = a > b ? a : b, least = a > b ? b : a;
  const float sum = most + ncps_log1p(ncps_exp(least - most));
  return a != a || b != b ? a + b : most - most != 0.0f || least - least != 0.0f ? most : sum;
}

// ---- loops

// Elements e of n numbers of each row, shared by all threads: element e is that of row e % ROWS.
#define NCPS_EACH(n) \
  for (uint e = lane; e < uint((n) * ROWS) + none; e += threads_per_threadgroup.x)

#define NCPS_CLEAR(sum, count)                       \
  NCPS_UNROLL                                        \
  for (int n = 0; n < count; ++n) {                  \
    NCPS_UNROLL                                      \
    for (int r = 0; r < ROWS; ++r) sum[n][r] = 0.0f; \
  }

// sum[n][r] += this part's share of column j + n apart of a matrix [depth][columns] that begins at
// `at` of device memory, times the numbers from `from` on of a threadgroup's array [..][ROWS].
#define NCPS_ADD_PRODUCTS(sum, count, apart, matrix, at, columns, array, from, depth, j) \
  for (uint i = part; i < uint(depth) + none; i += uint(PARTS)) {                        \
    const uint begin = (uint(from) + i) * uint(ROWS);                                    \
    const uint line = uint(at) + i * uint(columns) + (live ? j : 0u);                    \
    NCPS_UNROLL                                                                          \
    for (int n = 0; n < count; ++n) {                                                    \
      const float w = matrix[line + uint(n * apart)];                                    \
      NCPS_UNROLL                                                                        \
      for (int r = 0; r < ROWS; ++r) sum[n][r] += w * array[begin + uint(r)];            \
    }                                                                                    \
  }
