// The CfC's closed-form update by value (MATHS 1), forward and backward twins; after
// "activations.h".
#pragma once

// X(NAME, name). The place in the list is the number that Python passes (backends/activations.py).
#define NCPS_CFC_MODES(X) X(DEFAULT, default) X(NO_GATE, no_gate) X(PURE, pure)

#define NCPS_ENUMERATOR(NAME, name) NCPS_CFC_##NAME,
enum NcpsCfcMode { NCPS_CFC_MODES(NCPS_ENUMERATOR) NCPS_CFC_MODE_COUNT };
#undef NCPS_ENUMERATOR

// h' from F = activation(f) of the heads f1 and f2 (tanh, lecun_tanh or identity: MATHS 1's
// variants) and the time gate g = sigmoid(a ts + b)
template <int MODE, typename V>
inline V cfc_blend(V F1, V F2, V g) {
  static_assert(MODE == NCPS_CFC_DEFAULT || MODE == NCPS_CFC_NO_GATE, "a mode that blends heads");
  if (MODE == NCPS_CFC_NO_GATE) return F1 + g * F2;
  return F1 + g * (F2 - F1);
}

template <typename V>
struct CfcBlendGradient {
  V df1, df2, du;  // with respect to f1, f2 and u = a ts + b
};

template <int MODE, int HEAD_ACTIVATION, typename V>
inline CfcBlendGradient<V> cfc_blend_backward(V dh, V F1, V F2, V g) {
  static_assert(MODE == NCPS_CFC_DEFAULT || MODE == NCPS_CFC_NO_GATE, "a mode that blends heads");
  const V dF1 = MODE == NCPS_CFC_NO_GATE ? dh : dh * (1.0f - g);
  const V dg = MODE == NCPS_CFC_NO_GATE ? dh * F2 : dh * (F2 - F1);
  return {dF1 * ncps_activation_slope<HEAD_ACTIVATION>(F1),
          dh * g * ncps_activation_slope<HEAD_ACTIVATION>(F2), dg * g * (1.0f - g)};
}

// h' = A - A exp(-ts (|w_tau| + |f|)) f
template <typename V, typename K>
inline V cfc_pure(V f, V w_tau, V A, K ts) {
  return A - A * ncps_exp((ncps_abs(w_tau) + ncps_abs(f)) * -ts) * f;
}

template <typename V>
struct CfcPureGradient {
  V df, dw_tau, dA, dts;  // dts: this neuron's share of the sum over neurons
};

template <typename V, typename K>
inline CfcPureGradient<V> cfc_pure_backward(V dh, V f, V w_tau, V A, K ts) {
  const V rate = ncps_abs(w_tau) + ncps_abs(f);
  const V e = ncps_exp(rate * -ts);
  const V dAe = dh * A * e;
  const V sign = ncps_select(w_tau > 0.0f, V{} + 1.0f, ncps_select(w_tau < 0.0f, V{} - 1.0f, V{}));
  return {dAe * (ncps_abs(f) * ts - 1.0f), dAe * f * ts * sign, dh * (1.0f - e * f),
          dAe * f * rate};
}
