// The LTC synapse and semi-implicit unfold by value (MATHS 3 and 6), forward and backward twins;
// called by the CPU kernels and the Metal kernels, after "activations.h"'s contract for V.
//
// A synapse arrives folded: s2 = -sigma log2(e), m2 = sigma mu log2(e), w = pos(w)|mask|, we = w E.
// With k = ts/U an unfold reads
//   v' = (cm v + k n) / (cm + k d),   n = g vleak + Ns + sum we s,   d = g + eps + Ds + sum w s, s
//   = ltc_gate(v_i).
#pragma once

// sigma(sigma_ij (v_i - mu_ij))
template <typename V, typename P>
inline V ltc_gate(V v, P s2, P m2) {
  return ncps_logistic(v * s2 + m2);
}

template <typename V, typename C, typename K>
inline V ltc_update_denominator(V d, C cm, K k) {
  return d * k + cm;
}

template <typename V, typename C, typename K>
inline V ltc_update(V v, V n, V d, C cm, K k) {
  return (v * cm + n * k) / ltc_update_denominator(d, cm, k);
}

// dL/dz of the gate's argument z = s2 v + m2, but for the factor -ln 2 that the caller applies once
// per sum.
template <typename V, typename P>
inline V ltc_gate_backward(V gate, P w, P we, V dn, V dd) {
  return (dn * we + dd * w) * (gate - gate * gate);
}

// The same from gn = gate dn = dL/dwe and gd = gate dd = dL/dw: one multiplication less where
// adding them up costs no multiply-add (x86).
template <typename V, typename P>
inline V ltc_gate_backward_weighted(V gate, P w, P we, V gn, V gd) {
  const V sum = gn * we + gd * w;
  return sum - sum * gate;
}
