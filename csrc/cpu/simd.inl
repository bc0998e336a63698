// One SIMD vector type and its maths for the instruction set that the compiler's flags allow. Every
// .inl lies in an anonymous namespace, so that each instruction set has its own copy. No .inl calls
// a std:: function: the linker could keep the AVX-512 copy of one.
#pragma once

#include "csrc/cpu/kernels.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
#define NCPS_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define NCPS_VECTOR_BYTES 32
#else
#define NCPS_VECTOR_BYTES 16
#endif

namespace mlx_ncps {
namespace {

typedef float vf __attribute__((vector_size(NCPS_VECTOR_BYTES)));
typedef float vf_unaligned __attribute__((vector_size(NCPS_VECTOR_BYTES), aligned(4), may_alias));
typedef int vi __attribute__((vector_size(NCPS_VECTOR_BYTES)));
typedef unsigned vu __attribute__((vector_size(NCPS_VECTOR_BYTES)));  // sums of bits may wrap
constexpr long W = NCPS_VECTOR_BYTES / 4;                             // lanes

static inline long round_up(long n, long to) { return (n + to - 1) / to * to; }
static inline long min_of(long a, long b) { return a < b ? a : b; }

static inline vf splat(float f) { return f - vf{}; }  // f - 0 folds to f; f + 0 would not: -0.0f
static inline vf load(const float* p) { return *reinterpret_cast<const vf_unaligned*>(p); }
static inline void store(float* p, vf v) { *reinterpret_cast<vf_unaligned*>(p) = v; }

// The first n lanes (0 < n <= W); the others read as `fill` and are not written.
static inline vf load_partial(const float* p, long n, float fill = 0.0f) {
  if (n >= W) return load(p);
#if defined(__AVX512F__)
  return (vf)_mm512_mask_loadu_ps((__m512)splat(fill), __mmask16((1 << n) - 1), p);
#endif
  float lanes[W];
  for (long i = 0; i < W; ++i) lanes[i] = i < n ? p[i] : fill;
  return load(lanes);
}
static inline void store_partial(float* p, vf v, long n) {
  if (n >= W) return store(p, v);
#if defined(__AVX512F__)
  return _mm512_mask_storeu_ps(p, __mmask16((1 << n) - 1), (__m512)v);
#endif
  float lanes[W];
  store(lanes, v);
  for (long i = 0; i < n; ++i) p[i] = lanes[i];
}

static inline float horizontal_sum(vf v) {
  float lanes[W];
  store(lanes, v);
  for (long half = W / 2; half > 0; half /= 2)
    for (long i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}

// Swaps the blocks of D lanes off the diagonal of two rows that lie D apart in a tile.
template <int D, int... LANE>
static inline void swap_blocks(vf& a, vf& b, std::integer_sequence<int, LANE...>) {
  const vf first = __builtin_shufflevector(a, b, (LANE & D ? int(W) + LANE - D : LANE)...);
  b = __builtin_shufflevector(a, b, (LANE & D ? int(W) + LANE : LANE + D)...);
  a = first;
}

template <int D = W / 2>
static inline void transpose(vf (&tile)[W]) {
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i)
    if (!(i & D)) swap_blocks<D>(tile[i], tile[i + D], std::make_integer_sequence<int, W>{});
  if constexpr (D > 1) transpose<D / 2>(tile);
}

static inline vf ncps_select(vi c, vf a, vf b) { return c ? a : b; }
static inline vf ncps_abs(vf a) { return a < 0.0f ? -a : a; }

// 2^f on [-0.5, 0.5], minimax of degree 5 with the constant term held at 1: relative error 9.2e-8.
static inline vf exp2_fraction(vf f) {
  vf p = splat(1.3264756416901946e-3f);
  p = p * f + 9.671512059867382e-3f;
  p = p * f + 5.550733581185341e-2f;
  p = p * f + 2.4022242426872253e-1f;
  p = p * f + 6.931470036506653e-1f;
  return p * f + 1.0f;
}

// At most `most`, at least `least`; NaN stays NaN.
static inline vf at_most(vf a, float most) {
#if defined(__ARM_NEON)
  return (vf)vminq_f32((float32x4_t)a, (float32x4_t)splat(most));
#else
  return a > most ? splat(most) : a;
#endif
}
static inline vf at_least(vf a, float least) {
#if defined(__ARM_NEON)
  return (vf)vmaxq_f32((float32x4_t)a, (float32x4_t)splat(least));
#else
  return a < least ? splat(least) : a;
#endif
}
static inline vf within_one(vf a) { return at_least(at_most(a, 1.0f), -1.0f); }

// 2^z; NaN stays NaN, large |z| gives 0 and infinity. Without AVX-512 the values below 2^-126 fall
// to 0 at 2^-127, faster than they should: there n = 127 or -127 leaves no exponent to a fraction.
static inline vf ncps_exp2(vf z) {
#if defined(__AVX512F__)
  const vf n = (vf)_mm512_roundscale_ps((__m512)z, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  return (vf)_mm512_scalef_ps((__m512)exp2_fraction(z - n), (__m512)n);
#else
  z = at_least(at_most(z, 128.0f), -127.0f);
  const vf shifted =
      z + 12582912.0f;  // 1.5 * 2^23: the rounded integer sits in the low mantissa bits
  const vf p = exp2_fraction(z - (shifted - 12582912.0f));
  const vu bits = (vu)p + ((vu)shifted << 23);
  return z == z ? (vf)bits : z;
#endif
}

#if defined(__AVX512F__)
struct Exp2Table {
  alignas(64) float at[32];
};
static constexpr Exp2Table make_exp2_table() {
  Exp2Table table{};
  double power = 1.0;
  for (float& entry : table.at) entry = float(power), power *= 1.0218971486541166;  // 2^(1/32)
  return table;
}
static constexpr Exp2Table EXP2_TABLE = make_exp2_table();
#endif

// 1 / (1 + 2^z); 1 and 0 at the ends, NaN stays NaN. With AVX-512 2^z = 2^n 2^(k/32) 2^f, for a
// table in two registers, |f| <= 1/64 and 2^f = (C + f) / (C - f), relative error 2.7e-8; C - f
// joins the one division. 6 operations of the multiply-add pipes; the polynomial takes 10. With
// NEON 2^f = (a + c f) / (a - c f), |f| <= 0.5, c = ln(2) / 2, a = c f coth(c f) by a polynomial of
// f^2, relative error 5e-10: NaN needs no operations of its own, as a - c f keeps it. f is 0 and
// a + c f 1 where z was held, so that its exponent's bits give 0 and infinity.
static inline vf ncps_logistic(vf z) {
#if defined(__AVX512F__)
  constexpr int TO_32ND = 5 << 4 | _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  constexpr float C = 2.8854112f;
  const vf index = z + 393216.0f;  // 1.5 * 2^18: the low 5 mantissa bits are k
  const vf f = (vf)_mm512_reduce_ps((__m512)z, TO_32ND);  // 0 where z is infinite
  const vf rounded = (vf)_mm512_roundscale_ps((__m512)z, TO_32ND), below = C - f;
  const vf power = (vf)_mm512_permutex2var_ps(_mm512_load_ps(EXP2_TABLE.at), (__m512i)index,
                                              _mm512_load_ps(EXP2_TABLE.at + 16));
  const vf scaled = (vf)_mm512_scalef_ps((__m512)power, (__m512)rounded);  // by 2^floor(rounded)
  return below / (scaled * (C + f) + below);
#elif defined(__ARM_NEON)
  constexpr float C = 0.34657359f;
  z = at_least(at_most(z, 128.0f), -127.0f);
  const vf shifted = z + 12582912.0f, f = z - (shifted - 12582912.0f), square = f * f;
  const vf a = (square * -3.192458e-4f + 4.0037636e-2f) * square + 1.0f, below = a - f * C;
  const vu power = (vu)(a + f * C) + ((vu)shifted << 23);
  return below / ((vf)power + below);
#else
  return 1.0f / (ncps_exp2(z) + 1.0f);
#endif
}

static inline vf ncps_divide(vf a, vf b) { return a / b; }

// x P(x^2) / Q(x^2), minimax with P(0) = Q(0) = 1: relative error 1.1e-8 before rounding, exact
// slope at 0. Beyond 8.4 it grows past tanh: exactly +-1 from 8.8 on, where the slope 1 - tanh^2 is
// then 0.
static inline vf ncps_tanh(vf x) {
  const vf z = at_most(x * x, 81.19656f);
  vf p = splat(1.4523163e-8f);
  p = p * z + 2.142858e-5f;
  p = p * z + 3.5446728e-3f;
  p = p * z + 1.3422188e-1f;
  p = p * z + 1.0f;
  vf q = splat(8.247155e-7f);
  q = q * z + 3.3663578e-4f;
  q = q * z + 2.606317e-2f;
  q = q * z + 4.6755515e-1f;
  q = q * z + 1.0f;
  return within_one(x * p / q);
}

// x P(x^2) / Q(x^2), minimax: relative error 1.4e-8 before rounding; beyond 3.7 it grows past erf,
// so that it is exactly +-1 from 3.85 on.
static inline vf ncps_erf(vf x) {
  const vf z = at_most(x * x, 15.360175f);
  vf p = splat(2.285169e-4f);
  p = p * z + 3.209229e-3f;
  p = p * z + 5.0341306e-2f;
  p = p * z + 1.7987096e-1f;
  p = p * z + 1.1283792f;
  vf q = splat(-1.2600786e-7f);
  q = q * z + 2.4158243e-5f;
  q = q * z + 9.785354e-4f;
  q = q * z + 1.3661884e-2f;
  q = q * z + 1.088628e-1f;
  q = q * z + 4.9273935e-1f;
  q = q * z + 1.0f;
  return within_one(x * p / q);
}

}  // namespace
}  // namespace mlx_ncps
