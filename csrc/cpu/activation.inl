// The activations of metal/activations.h by number, over rows of a CfC's layers.
#pragma once

#include "csrc/cpu/formulas.inl"
#include "csrc/cpu/memory.inl"

namespace mlx_ncps {
namespace {

template <int N>
struct Constant {
  static constexpr int value = N;
};

// f(Constant<id>) of the activation with that number.
template <typename F>
static inline auto with_activation(int id, F f) {
  switch (id) {
#define NCPS_CASE(NAME, ...) \
  case NCPS_##NAME:          \
    return f(Constant<NCPS_##NAME>{});
    NCPS_ACTIVATIONS(NCPS_CASE)
#undef NCPS_CASE
  }
  unknown_choice("activation", id);
}

// z = activation(z + bias), without a bias of z; keeps what the slope needs, n floats.
static void activate(int activation, float* z, const float* bias, long n, float* kept) {
  with_activation(activation, [&](auto id) {
    for (long q = 0; q < n; q += W) {
      const vf pre = bias ? load(z + q) + load(bias + q) : load(z + q);
      const vf value = ncps_activation<id.value>(pre);
      store(z + q, value);
      if (kept) store_partial(kept + q, ncps_slope_from_value<id.value>() ? value : pre, n - q);
    }
  });
}

// dz *= slope.
static void multiply_slope(int activation, float* dz, const float* kept, long n) {
  with_activation(activation, [&](auto id) {
    for (long q = 0; q < n; q += W)
      store(dz + q, load(dz + q) * ncps_activation_slope<id.value>(load_partial(kept + q, n - q)));
  });
}

// z *= factors of dropout.
static void drop(float* z, const float* factors, long n) {
  for (long q = 0; q < n; q += W)
    store_partial(z + q, load_partial(z + q, n - q) * load_partial(factors + q, n - q), n - q);
}

// A layer's output, before dropout, from what was kept of it.
static void value_from_kept(int activation, const float* kept, long n, float* value) {
  with_activation(activation, [&](auto id) {
    if (ncps_slope_from_value<id.value>()) return copy(value, kept, n);
    for (long q = 0; q < n; q += W)
      store_partial(value + q, ncps_activation<id.value>(load_partial(kept + q, n - q)), n - q);
  });
}

}  // namespace
}  // namespace mlx_ncps
