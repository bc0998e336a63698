// The LTC's rule by value (MATHS 3 and 6): the synapse's gate, the update of every solver, and the
// gradient of each; after "activations.h", whose contract for V holds here too, with
// ncps_divide(V, V) = a / b beside it.
//
// A synapse arrives folded: s2 = -sigma log2(e), m2 = sigma mu log2(e), w = pos(w)|mask|, we = w E.
// With k = ts/U an unfold reads
//   v' = (cm v + k n) / (cm + k d),   n = g vleak + Ns + sum we s,   d = g + eps + Ds + sum w s, s
//   = ltc_gate(v_i).
#pragma once

// X(NAME, name, stages). The place in the list is the number of the solver; a stage evaluates the
// recurrent synapses once.
#define NCPS_LTC_SOLVERS(X) \
  X(SEMI_IMPLICIT, semi_implicit, 1) X(EXPLICIT, explicit, 1) X(RUNGE_KUTTA, runge_kutta, 4)

#define NCPS_ENUMERATOR(NAME, name, stages) NCPS_LTC_##NAME,
enum NcpsLtcSolver { NCPS_LTC_SOLVERS(NCPS_ENUMERATOR) NCPS_LTC_SOLVER_COUNT };
#undef NCPS_ENUMERATOR

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
  return ncps_divide(v * cm + n * k, ltc_update_denominator(d, cm, k));
}

// ---- backward of the update. All of it follows from g = dL/dv' / (cm + k d):
//   dL/dn = k g,  dL/dd = -k g v',  dL/dcm = g (v - v'),  dL/dk = g (n - v' d),  and v's own share
//   of dL/dv = cm g, to which the synapses add theirs.
// What is summed up takes its sum: compilers may fuse a product and a sum of one expression only.

template <typename V, typename C, typename K>
inline V ltc_update_backward(V dv_next, V d, C cm, K k) {  // g
  return ncps_divide(dv_next, ltc_update_denominator(d, cm, k));
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

// ---- the solvers of stages, explicit and runge_kutta. A stage takes the slope f = (n - d p) / cm
// at its point p, the first one at v; d has no epsilon. The point of the next stage is v + reach k
// f, and v' is v plus the sum of share k f.

struct LtcStage {
  float share, reach;
  bool first, last;  // of its unfold
};

inline LtcStage ltc_stage(int solver, int stage) {
  if (solver == NCPS_LTC_EXPLICIT) return {1.0f, 0.0f, true, true};
  const bool outer = stage == 0 || stage == 3;
  return {outer ? 0.166666667f : 0.333333333f, stage < 2 ? 0.5f : 1.0f, stage == 0, stage == 3};
}

template <typename V, typename C>
inline V ltc_slope(V p, V n, V d, C cm) {
  return (n - d * p) / cm;
}

// v + reach k f, or what v' has so far with share k f: `part` is k times the stage's number.
template <typename V, typename K>
inline V ltc_stage_add(V sum, V slope, K part) {
  return sum + slope * part;
}

// dL/d(k f) from dL/dv' and dL/dp of the next stage
template <typename V>
inline V ltc_stage_backward(V dv_next, V dp_next, LtcStage stage) {
  return stage.last ? dv_next * stage.share : dv_next * stage.share + dp_next * stage.reach;
}

// With g = dL/d(k f): dL/dn = k g / cm, dL/dd = -dL/dn p, dL/dcm = -dL/dn f, dL/dk = g f, and p's
// own share of dL/dp = -dL/dn d.
template <typename V, typename C, typename K>
inline LtcSumsGradient<V> ltc_slope_backward(V g, V p, C cm, K k) {
  const V dn = g * k / cm;
  return {dn, -dn * p};
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

// The same from ws = w s2 and wes = we s2, where these serve several gates.
template <typename V, typename P>
inline V ltc_source_backward(V sum, V gate, P ws, P wes, V dn, V dd) {
  return sum + (dn * wes + dd * ws) * (gate - gate * gate);
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
