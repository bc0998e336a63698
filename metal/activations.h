// Activations of MATHS by value, and their slopes; read by every CfC and LTC kernel, C++ and Metal.
//
// V is float in Metal and CUDA and a SIMD vector on the CPU. The including file provides, for its
// V:
//   ncps_exp2(V), ncps_logistic(V) = 1 / (1 + 2^z), ncps_tanh(V), ncps_erf(V), ncps_abs(V),
//   ncps_select(c, a, b) = c ? a : b.
#pragma once

enum NcpsActivation {
  NCPS_LECUN_TANH = 0,
  NCPS_TANH = 1,
  NCPS_RELU = 2,
  NCPS_GELU = 3,
  NCPS_SILU = 4,
  NCPS_SIGMOID = 5,
  NCPS_IDENTITY = 6,
};

template <typename V>
inline V ncps_exp(V z) {
  return ncps_exp2(z * 1.44269504088896341f);
}

// 1 / (1 + exp(-z))
template <typename V>
inline V ncps_sigmoid(V z) {
  return ncps_logistic(z * -1.44269504088896341f);
}

template <typename V>
inline V ncps_gelu(V z) {
  return z * (ncps_erf(z * 0.70710678118654752f) * 0.5f + 0.5f);
}

template <int ACTIVATION, typename V>
inline V ncps_activation(V z) {
  if (ACTIVATION == NCPS_LECUN_TANH) return ncps_tanh(z * 0.666f) * 1.7159f;
  if (ACTIVATION == NCPS_TANH) return ncps_tanh(z);
  if (ACTIVATION == NCPS_RELU) return ncps_select(z < 0.0f, V{}, z);
  if (ACTIVATION == NCPS_GELU) return ncps_gelu(z);
  if (ACTIVATION == NCPS_SIGMOID) return ncps_sigmoid(z);
  if (ACTIVATION == NCPS_IDENTITY) return z;
  return z * ncps_sigmoid(z);
}

// True where the slope follows from the activation's value, so that the backward need not keep z.
template <int ACTIVATION>
inline bool ncps_slope_from_value() {
  return ACTIVATION == NCPS_LECUN_TANH || ACTIVATION == NCPS_TANH || ACTIVATION == NCPS_RELU ||
         ACTIVATION == NCPS_SIGMOID || ACTIVATION == NCPS_IDENTITY;
}

// d activation / dz, from `kept`: the activation's value where ncps_slope_from_value, else z
// itself.
template <int ACTIVATION, typename V>
inline V ncps_activation_slope(V kept) {
  if (ACTIVATION == NCPS_LECUN_TANH) {
    const V tanh = kept * (1.0f / 1.7159f);  // exactly 1 where kept is 1.7159f
    return (1.0f - tanh * tanh) * (1.7159f * 0.666f);
  }
  if (ACTIVATION == NCPS_TANH) return 1.0f - kept * kept;
  if (ACTIVATION == NCPS_RELU) return ncps_select(kept > 0.0f, V{} + 1.0f, V{});
  if (ACTIVATION == NCPS_GELU) {
    const V density = ncps_exp(kept * kept * -0.5f) * 0.39894228040143268f;
    return ncps_erf(kept * 0.70710678118654752f) * 0.5f + 0.5f + kept * density;
  }
  if (ACTIVATION == NCPS_SIGMOID) return kept * (1.0f - kept);
  if (ACTIVATION == NCPS_IDENTITY) return V{} + 1.0f;
  const V s = ncps_sigmoid(kept);
  return s + s * (1.0f - s) * kept;
}
