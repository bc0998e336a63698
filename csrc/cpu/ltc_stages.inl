// The solvers of stages, explicit and runge_kutta (MATHS 3.8, 3.9, 3.18, 3.19): what one neuron
// keeps between the stages of an unfold, forward and backward, in a vector of neurons or of batch
// rows.
#pragma once

#include "csrc/cpu/formulas.inl"
#include "csrc/cpu/memory.inl"

namespace mlx_ncps {
namespace {

static inline long stages_of(const LtcProblem& p) {
#define NCPS_STAGES(NAME, name, stages) stages,
  static constexpr long stages[] = {NCPS_LTC_SOLVERS(NCPS_STAGES)};
#undef NCPS_STAGES
  return stages[p.solver];
}
static inline long evaluations_of(const LtcProblem& p) { return p.U * stages_of(p); }
static inline LtcStage stage_of(const LtcProblem& p, long evaluation) {
  return ltc_stage(p.solver, int(evaluation % stages_of(p)));
}

// The point after a stage at point p, v' after the last one. v_at, sum_at: where an unfold keeps v
// and what v' has so far.
template <typename C>
static inline vf next_point(const LtcStage& stage, vf p, vf n, vf d, C cm, vf k, float* v_at,
                            float* sum_at) {
  const vf slope = ltc_slope(p, n, d, cm),
           sum = ltc_stage_add(stage.first ? p : load(sum_at), slope, k * stage.share);
  if (stage.last) return sum;
  const vf v = stage.first ? p : load(v_at);
  if (stage.first) store(v_at, v);
  store(sum_at, sum);
  return ltc_stage_add(v, slope, k * stage.reach);
}

// What the stages of an unfold keep, each as large as v: v before it, and what v' has so far; in a
// backward dL/dv' and what dL/dv has so far.
struct StageSums {
  float *v, *sum;
};
static StageSums take_stage_sums(const LtcProblem& p, long floats, Carver& memory) {
  const long each = stages_of(p) > 1 ? floats : 0;
  return {memory.take(each), memory.take(each)};
}

// dn, dd and the neuron's own share of dL/dp from dL/dp of the next stage, dL/dv' at the last.
// after_at, sum_at: where an unfold keeps dL/dv', and what dL/dv has so far.
template <typename C>
static inline LtcSumsGradient<vf> stage_backward(const LtcStage& stage, vf dp_next, vf p, vf n,
                                                 vf d, C cm, vf k, float* after_at, float* sum_at,
                                                 vf* dcm, vf* dk, vf* dp) {
  const vf after = stage.last ? dp_next : load(after_at),
           sum = stage.last ? dp_next : load(sum_at) + dp_next, slope = ltc_slope(p, n, d, cm),
           g = ltc_stage_backward(after, dp_next, stage);
  const auto sums = ltc_slope_backward(g, p, cm, k);
  *dcm = *dcm - sums.dn * slope;
  *dk = *dk + g * slope;
  *dp = (stage.first ? sum : vf{}) - sums.dn * d;
  if (stage.first) return sums;
  if (stage.last) store(after_at, after);
  store(sum_at, sum);
  return sums;
}

}  // namespace
}  // namespace mlx_ncps
