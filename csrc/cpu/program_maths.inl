// The elementwise instructions of step programs: value and slopes, for a vector.
#pragma once

#include "csrc/cpu/formulas.inl"
#include "csrc/cpu/program.h"

namespace mlx_ncps {
namespace {

static inline vf truth(vi c) { return c ? splat(1.0f) : vf{}; }
static inline vf root(vf a) {
  vf out;
  for (long i = 0; i < W; ++i) out[i] = __builtin_sqrtf(a[i]);
  return out;
}

// ln a = n ln 2 + 2 atanh((m - 1) / (m + 1)), m in [sqrt(1/2), sqrt(2)): the series to z^4 leaves a
// relative error of 2e-9. 0 gives -infinity, a negative number NaN, infinity and NaN themselves.
static inline vf ncps_log(vf a) {
  const vi small = a < 1.17549435e-38f;  // scaled, so that their exponent is one
  const vf x = small ? a * 8388608.0f : a;
  const vu bits = (vu)x - 0x3f3504f3u;  // of sqrt(1/2)
  const vi n = (vi)bits >> 23;
  const vf m = (vf)((bits & 0x7fffffu) + 0x3f3504f3u), s = (m - 1.0f) / (m + 1.0f), z = s * s;
  const vf series = (((z * (2.0f / 9) + 2.0f / 7) * z + 2.0f / 5) * z + 2.0f / 3) * z;
  const vf count = __builtin_convertvector(n, vf) - (small ? splat(23.0f) : vf{});
  const vf value = count * 0.693147182f + (2.0f * s + s * series);
  const vf infinity = splat(__builtin_inff());
  const vf ends = a < infinity ? value : a;  // NaN stays
  return a > 0.0f ? ends : a == 0.0f ? -infinity : splat(__builtin_nanf(""));
}
static inline vf ncps_log1p(vf a) {
  const vf u = a + 1.0f, below = u - 1.0f;
  const vf value = ncps_log(u) * (a / below);
  return below == 0.0f ? a : u < __builtin_inff() ? value : u;
}
static inline vf ncps_logaddexp(vf a, vf b) {
  const vf most = a > b ? a : b, least = a > b ? b : a;
  const vf value = most + ncps_log1p(ncps_exp(least - most));
  const vi ends = (vi)(most == __builtin_inff()) | (vi)(least == -__builtin_inff());
  return (a != a) | (b != b) ? a + b : ends ? most : value;
}

// f(a, b, c) -> value
template <ProgramOp OP>
static inline vf program_value(vf a, vf b, vf c) {
  using enum ProgramOp;
  if constexpr (OP == NEG) return -a;
  if constexpr (OP == ABS) return ncps_abs(a);
  if constexpr (OP == EXP) return ncps_exp(a);
  if constexpr (OP == LOG) return ncps_log(a);
  if constexpr (OP == LOG1P) return ncps_log1p(a);
  if constexpr (OP == SQRT) return root(a);
  if constexpr (OP == RSQRT) return 1.0f / root(a);
  if constexpr (OP == SQUARE) return a * a;
  if constexpr (OP == SIGMOID) return ncps_sigmoid(a);
  if constexpr (OP == TANH) return ncps_tanh(a);
  if constexpr (OP == ERF) return ncps_erf(a);
  if constexpr (OP == SIGN) return a > 0.0f ? splat(1.0f) : a < 0.0f ? splat(-1.0f) : a;
  if constexpr (OP == NOT) return truth(a == 0.0f);
  if constexpr (OP == ADD) return a + b;
  if constexpr (OP == SUB) return a - b;
  if constexpr (OP == MUL) return a * b;
  if constexpr (OP == DIV) return a / b;
  if constexpr (OP == MAX) return a != a ? a : a > b ? a : b;
  if constexpr (OP == MIN) return a != a ? a : a < b ? a : b;
  if constexpr (OP == LOGADDEXP) return ncps_logaddexp(a, b);
  if constexpr (OP == GT) return truth(a > b);
  if constexpr (OP == GE) return truth(a >= b);
  if constexpr (OP == LT) return truth(a < b);
  if constexpr (OP == LE) return truth(a <= b);
  if constexpr (OP == EQ) return truth(a == b);
  if constexpr (OP == NE) return truth(a != b);
  if constexpr (OP == AND) return truth((a != 0.0f) & (b != 0.0f));
  if constexpr (OP == OR) return truth((a != 0.0f) | (b != 0.0f));
  if constexpr (OP == SELECT) return a != 0.0f ? b : c;
}

// dL/d(operand N) of one with value y and dL/dy. As MLX has them where no slope exists.
template <ProgramOp OP, int N>
static inline vf program_slope(vf a, vf b, vf y, vf dy) {
  using enum ProgramOp;
  if constexpr (OP == NEG) return -dy;
  if constexpr (OP == ABS) return a > 0.0f ? dy : a < 0.0f ? -dy : vf{};
  if constexpr (OP == EXP) return dy * y;
  if constexpr (OP == LOG) return dy / a;
  if constexpr (OP == LOG1P) return dy / (a + 1.0f);
  if constexpr (OP == SQRT) return dy * 0.5f / y;
  if constexpr (OP == RSQRT) return dy * y / a * -0.5f;
  if constexpr (OP == SQUARE) return dy * a * 2.0f;
  if constexpr (OP == SIGMOID) return dy * y * (1.0f - y);
  if constexpr (OP == TANH) return dy * (1.0f - y * y);
  if constexpr (OP == ERF) return dy * 1.12837917f * ncps_exp(-a * a);
  if constexpr (OP == ADD) return dy;
  if constexpr (OP == SUB) return N == 0 ? dy : -dy;
  if constexpr (OP == MUL) return N == 0 ? dy * b : dy * a;
  if constexpr (OP == DIV) return N == 0 ? dy / b : -dy * y / b;
  if constexpr (OP == MAX) return (N == 0) ? (a > b ? dy : vf{}) : (a <= b ? dy : vf{});
  if constexpr (OP == MIN) return (N == 0) ? (a < b ? dy : vf{}) : (a >= b ? dy : vf{});
  if constexpr (OP == LOGADDEXP) return dy * (N == 0 ? ncps_sigmoid(a - b) : ncps_sigmoid(b - a));
  if constexpr (OP == SELECT) return (a != 0.0f) == (N == 1 ? vi{} - 1 : vi{}) ? dy : vf{};
  return vf{};
}

// Whether an instruction passes gradients to operand N.
template <ProgramOp OP>
static constexpr bool has_slope(int n) {
  using enum ProgramOp;
  switch (OP) {
    case SIGN:
    case NOT:
    case GT:
    case GE:
    case LT:
    case LE:
    case EQ:
    case NE:
    case AND:
    case OR:
      return false;
    case SELECT:
      return n > 0;
    default:
      return true;
  }
}

}  // namespace
}  // namespace mlx_ncps
