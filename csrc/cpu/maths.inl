// The maths alone, value by value: what tests compare with double precision.
#pragma once

#include "csrc/cpu/activation.inl"

namespace mlx_ncps {
namespace {

template <int ACTIVATION>
static inline vf activation_or_slope(vf z, bool slope) {
  const vf value = ncps_activation<ACTIVATION>(z);
  if (!slope) return value;
  return ncps_activation_slope<ACTIVATION>(ncps_slope_from_value<ACTIVATION>() ? value : z);
}

static_assert(int(NCPS_ACTIVATION_COUNT) <= int(MATHS_EXP2), "one number, one function");

static inline vf maths_of(int function, vf z, bool slope) {
  if (function == MATHS_EXP2) return ncps_exp2(z);
  if (function == MATHS_LOGISTIC) return ncps_logistic(z);
  if (function == MATHS_ERF) return ncps_erf(z);
  return with_activation(function,
                         [&](auto id) { return activation_or_slope<id.value>(z, slope); });
}

static void run_maths(int function, bool slope, const float* z, long n, float* out) {
  for (long i = 0; i < n; i += W)
    store_partial(out + i, maths_of(function, load_partial(z + i, n - i), slope), n - i);
}

}  // namespace
}  // namespace mlx_ncps
