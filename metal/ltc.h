// The LTC's rule by value (MATHS 3 and 6): the synapse's gate, the semi-implicit update, and the
// gradient of each; after "activations.h", whose contract for V holds here too.
//
// A synapse arrives folded: s2 = -sigma log2(e), m2 = sigma mu log2(e), w = pos(w)|mask|, we = w E.
// With k = ts/U an unfold reads
//   v' = (cm v + k n) / (cm + k d),   n = g vleak + Ns + sum we s,   d = g + eps + Ds + sum w s, s
//   = ltc_gate(v_i).
#pragma once

// ---- forward

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

// ---- backward of the update. All of it follows from g = dL/dv' / (cm + k d):
//   dL/dn = k g,  dL/dd = -k g v',  dL/dcm = g (v - v'),  dL/dk = g (n - v' d),  and v's own share
//   of dL/dv = cm g, to which the synapses add theirs.
// What is summed up takes its sum: compilers may fuse a product and a sum of one expression only.

template <typename V, typename C, typename K>
inline V ltc_update_backward(V dv_next, V d, C cm, K k) {  // g
  return dv_next / ltc_update_denominator(d, cm, k);
}

template <typename V>
struct LtcSumsGradient {
  V dn, dd;
};

template <typename V, typename K>
inline LtcSumsGradient<V> ltc_sums_backward(V g, V v_next, K k) {
  const V dn = g * k;
  return {dn, -dn * v_next};
}

template <typename V>
inline V ltc_cm_backward(V sum, V g, V v, V v_next) {
  return sum + g * (v - v_next);
}

template <typename V>
inline V ltc_k_backward(V sum, V g, V n, V d, V v_next) {
  return sum + g * (n - v_next * d);
}

// ---- backward of a synapse. Its argument z = s2 v + m2 is one of a power of 2, not of e: what
// follows from dz lacks the factor -ln 2, which ltc_folded_gradient applies once per sum.

template <typename V>
inline V ltc_folded_gradient(V sum) {
  return sum * -0.69314718055994531f;
}

// dL/dz
template <typename V, typename P>
inline V ltc_gate_backward(V gate, P w, P we, V dn, V dd) {
  return (dn * we + dd * w) * (gate - gate * gate);
}

// The source's share of dL/dv
template <typename V, typename P>
inline V ltc_source_backward(V sum, V dz, P s2) {
  return sum + dz * s2;
}

// dL/dv of a source: what it has, and the folded sum of its synapses' shares.
template <typename V>
inline V ltc_dv(V own, V sum) {
  return own + sum * -0.69314718055994531f;
}
template <typename V, typename C>
inline V ltc_dv(V g, C cm, V sum) {
  return g * cm + sum * -0.69314718055994531f;
}

template <typename V>
struct LtcSynapseGradient {
  V s2, m2, w, we;
};

template <typename V>
inline LtcSynapseGradient<V> ltc_synapse_backward(V dz, V v, V gate, V dn, V dd) {
  return {dz * v, dz, gate * dd, gate * dn};
}
template <typename V>
inline LtcSynapseGradient<V> ltc_synapse_backward(LtcSynapseGradient<V> sum, V dz, V v, V gate,
                                                  V dn, V dd) {
  return {sum.s2 + dz * v, sum.m2 + dz, sum.w + gate * dd, sum.we + gate * dn};
}

// dL/dz and these from gn = gate dn and gd = gate dd: one multiplication less where adding them up
// costs no multiply-add (x86).
template <typename V, typename P>
inline V ltc_gate_backward_weighted(V gate, P w, P we, V gn, V gd) {
  const V sum = gn * we + gd * w;
  return sum - sum * gate;
}
template <typename V>
inline LtcSynapseGradient<V> ltc_synapse_backward_weighted(LtcSynapseGradient<V> sum, V dz, V v,
                                                           V gn, V gd) {
  return {sum.s2 + dz * v, sum.m2 + dz, sum.w + gd, sum.we + gn};
}
