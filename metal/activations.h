// Activations of MATHS by value, and their slopes, for C++, Metal and CUDA. To add one: a line in
// NCPS_ACTIVATIONS, its value and its slope.
//
// V is float in Metal and CUDA and a SIMD vector on the CPU. The including file provides, for its
// V:
//   ncps_exp2(V), ncps_logistic(V) = 1 / (1 + 2^z), ncps_tanh(V), ncps_erf(V), ncps_abs(V),
//   ncps_select(c, a, b) = c ? a : b.
#pragma once

// X(NAME, name, from_value, backbone, heads): from_value where the slope follows from the
// activation's value, so that the backward need not keep z; of a CfC's backbone, of its heads f1
// and f2. The place in the list is the number that Python passes (backends/activations.py).
#define NCPS_ACTIVATIONS(X)                   \
  X(LECUN_TANH, lecun_tanh, true, true, true) \
  X(TANH, tanh, true, true, true)             \
  X(RELU, relu, true, true, false)            \
  X(GELU, gelu, false, true, false)           \
  X(SILU, silu, false, true, false)           \
  X(SIGMOID, sigmoid, true, true, false)      \
  X(IDENTITY, identity, true, false, true)

#define NCPS_ENUMERATOR(NAME, ...) NCPS_##NAME,
enum NcpsActivation { NCPS_ACTIVATIONS(NCPS_ENUMERATOR) NCPS_ACTIVATION_COUNT };
#undef NCPS_ENUMERATOR

template <int ACTIVATION>
struct NcpsIs {};  // chooses a function below; of another number nothing compiles

template <typename V>
inline V ncps_exp(V z) {
  return ncps_exp2(z * 1.44269504088896341f);
}

// 1 / (1 + exp(-z))
template <typename V>
inline V ncps_sigmoid(V z) {
  return ncps_logistic(z * -1.44269504088896341f);
}

// ---- values, of z

template <typename V>
inline V ncps_value(NcpsIs<NCPS_LECUN_TANH>, V z) {
  return ncps_tanh(z * 0.666f) * 1.7159f;
}
template <typename V>
inline V ncps_value(NcpsIs<NCPS_TANH>, V z) {
  return ncps_tanh(z);
}
template <typename V>
inline V ncps_value(NcpsIs<NCPS_RELU>, V z) {
  return ncps_select(z < 0.0f, V{}, z);
}
template <typename V>
inline V ncps_value(NcpsIs<NCPS_GELU>, V z) {
  return z * (ncps_erf(z * 0.70710678118654752f) * 0.5f + 0.5f);
}
template <typename V>
inline V ncps_value(NcpsIs<NCPS_SILU>, V z) {
  return z * ncps_sigmoid(z);
}
template <typename V>
inline V ncps_value(NcpsIs<NCPS_SIGMOID>, V z) {
  return ncps_sigmoid(z);
}
template <typename V>
inline V ncps_value(NcpsIs<NCPS_IDENTITY>, V z) {
  return z;
}

// ---- slopes, of the value y where from_value, else of z

template <typename V>
inline V ncps_slope(NcpsIs<NCPS_LECUN_TANH>, V y) {
  const V tanh = y * (1.0f / 1.7159f);  // exactly 1 where y is 1.7159f
  return (1.0f - tanh * tanh) * (1.7159f * 0.666f);
}
template <typename V>
inline V ncps_slope(NcpsIs<NCPS_TANH>, V y) {
  return 1.0f - y * y;
}
template <typename V>
inline V ncps_slope(NcpsIs<NCPS_RELU>, V y) {
  return ncps_select(y > 0.0f, V{} + 1.0f, V{});
}
template <typename V>
inline V ncps_slope(NcpsIs<NCPS_GELU>, V z) {
  const V density = ncps_exp(z * z * -0.5f) * 0.39894228040143268f;
  return ncps_erf(z * 0.70710678118654752f) * 0.5f + 0.5f + z * density;
}
template <typename V>
inline V ncps_slope(NcpsIs<NCPS_SILU>, V z) {
  const V s = ncps_sigmoid(z);
  return s + s * (1.0f - s) * z;
}
template <typename V>
inline V ncps_slope(NcpsIs<NCPS_SIGMOID>, V y) {
  return y * (1.0f - y);
}
template <typename V>
inline V ncps_slope(NcpsIs<NCPS_IDENTITY>, V) {
  return V{} + 1.0f;
}

// ---- what the kernels call

template <int ACTIVATION, typename V>
inline V ncps_activation(V z) {
  return ncps_value(NcpsIs<ACTIVATION>{}, z);
}

// True where the slope follows from the activation's value.
template <int ACTIVATION>
inline bool ncps_slope_from_value() {
  static_assert(ACTIVATION >= 0 && ACTIVATION < NCPS_ACTIVATION_COUNT, "no such activation");
#define NCPS_FROM_VALUE(NAME, name, from_value, ...) (ACTIVATION == NCPS_##NAME && from_value) ||
  return NCPS_ACTIVATIONS(NCPS_FROM_VALUE) false;
#undef NCPS_FROM_VALUE
}

// d activation / dz, from `kept`: the activation's value where ncps_slope_from_value, else z
// itself.
template <int ACTIVATION, typename V>
inline V ncps_activation_slope(V kept) {
  return ncps_slope(NcpsIs<ACTIVATION>{}, kept);
}
