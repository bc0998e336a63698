// The maths that activations.h, ltc.h and cfc.h are written in, for V = float: Metal, and CUDA
// (where cuda.h comes first). Every GPU kernel's text starts with this file.
#pragma once

#if defined(__METAL_VERSION__)
// Before every loop over a thread's registers: left to themselves compilers keep a thread's arrays
// in memory where they don't unroll every such loop.
#define NCPS_UNROLL _Pragma("clang loop unroll(full)")
// Every function below: a call that stays one leaves structs in memory. As in cuda.h.
#define inline inline __attribute__((always_inline))
// Every function names its set: which one a bare metal::exp2 is, macOS and its compiler's options
// decide. precise: infinity and NaN come out as they went in, 4 units in the last place.
inline float ncps_exp2(float z) { return metal::precise::exp2(z); }
// 1 / (1 + 2^z). fast::divide: the precise one costs five times as much. A denominator of infinity
// gives 0.
inline float ncps_logistic(float z) { return metal::fast::divide(1.0f, ncps_exp2(z) + 1.0f); }
// Of finite numbers, the divisor between 2^-126 and 2^126: 3 units in the last place.
inline float ncps_divide(float a, float b) { return metal::fast::divide(a, b); }
inline float ncps_abs(float z) { return metal::fabs(z); }
#else
#define NCPS_UNROLL _Pragma("unroll")
inline float ncps_exp2(float z) { return exp2f(z); }
inline float ncps_logistic(float z) { return __fdividef(1.0f, exp2f(z) + 1.0f); }
inline float ncps_divide(float a, float b) { return __fdividef(a, b); }
inline float ncps_abs(float z) { return fabsf(z); }
#endif

inline float ncps_select(bool c, float a, float b) { return c ? a : b; }

// Sums over the PARTS neighbouring threads of a column, of which each keeps its own rows: element q
// of sum[ROWS] becomes that of row q PARTS + part. A thread hands one of two rows to its neighbour
// and takes the other: half the shuffles of a sum that all keep, in the same order.
#define NCPS_SHARE_ROWS(sum)                                                      \
  NCPS_UNROLL                                                                     \
  for (int q = 0; q < (PARTS > 1 ? (ROWS + 1) / 2 : 0); ++q) {                    \
    const float a = sum[ROWS > 1 ? 2 * q : 0], b = sum[ROWS > 1 ? 2 * q + 1 : 0]; \
    const bool odd = part % 2u == 1u;                                             \
    sum[q] = (odd ? b : a) + simd_shuffle_xor(odd ? a : b, ushort(1));            \
  }                                                                               \
  NCPS_UNROLL                                                                     \
  for (int q = 0; q < (PARTS > 2 ? (ROWS + 3) / 4 : 0); ++q) {                    \
    const float a = sum[ROWS > 2 ? 2 * q : 0], b = sum[ROWS > 2 ? 2 * q + 1 : 0]; \
    const bool odd = part / 2u == 1u;                                             \
    sum[q] = (odd ? b : a) + simd_shuffle_xor(odd ? a : b, ushort(2));            \
  }

// y in [-1, 1], and exactly +-1 beyond x = end, whatever the last places of the division there, of
// infinities too.
inline float ncps_saturated(float y, float x, float end) {
  const float held = y > 1.0f ? 1.0f : y < -1.0f ? -1.0f : y;
  return ncps_abs(x) > end ? (x > 0.0f ? 1.0f : -1.0f) : held;
}

// x P(x^2) / Q(x^2), minimax with P(0) = Q(0) = 1: relative error 1.1e-8 before rounding, exact
// slope at 0; beyond 8.4 it grows past tanh, and from 9.011 on float rounds tanh to 1, where the
// slope is then 0. As in csrc/cpu.
inline float ncps_tanh(float x) {
  const float z = x * x;
  float p = 1.4523163e-8f;
  p = p * z + 2.142858e-5f;
  p = p * z + 3.5446728e-3f;
  p = p * z + 1.3422188e-1f;
  p = p * z + 1.0f;
  float q = 8.247155e-7f;
  q = q * z + 3.3663578e-4f;
  q = q * z + 2.606317e-2f;
  q = q * z + 4.6755515e-1f;
  q = q * z + 1.0f;
  return ncps_saturated(ncps_divide(x * p, q), x, 9.011f);
}

// log(1 + exp(z)), where log(1 + u) = 2 artanh(s) of s = u / (2 + u): of u <= 1 the series' rest is
// 1.4e-8 of it.
inline float ncps_softplus(float z) {
  const float u = ncps_exp2(ncps_abs(z) * -1.44269504088896341f);
  const float s = ncps_divide(u, u + 2.0f), q = s * s;
  float p = 1.0f / 13.0f;
  p = p * q + 1.0f / 11.0f;
  p = p * q + 1.0f / 9.0f;
  p = p * q + 1.0f / 7.0f;
  p = p * q + 1.0f / 5.0f;
  p = p * q + 1.0f / 3.0f;
  p = p * q + 1.0f;
  return (z > 0.0f ? z : 0.0f) + 2.0f * s * p;
}

// x P(x^2) / Q(x^2), minimax: relative error 1.4e-8 before rounding; beyond 3.7 it grows past erf,
// so that it is exactly +-1 from 3.85 on. As in csrc/cpu.
inline float ncps_erf(float x) {
  const float z = x * x;
  float p = 2.285169e-4f;
  p = p * z + 3.209229e-3f;
  p = p * z + 5.0341306e-2f;
  p = p * z + 1.7987096e-1f;
  p = p * z + 1.1283792f;
  float q = -1.2600786e-7f;
  q = q * z + 2.4158243e-5f;
  q = q * z + 9.785354e-4f;
  q = q * z + 1.3661884e-2f;
  q = q * z + 1.088628e-1f;
  q = q * z + 4.9273935e-1f;
  q = q * z + 1.0f;
  return ncps_saturated(ncps_divide(x * p, q), x, 3.919f);
}
