// The gradients of the synapses of the lists, in runs of equal source, so that dL/dv_i stays in a
// register; each synapse's four gradients add up in the task's slab, a vector per synapse. A slab
// entry is touched once for several evaluations of its synapse: several steps of the sensory
// synapses, which nothing waits for, and several unfolds of the recurrent ones, whose gates and dz
// are kept until then.
#pragma once

#include "csrc/cpu/ltc_lists.inl"

namespace mlx_ncps {
namespace {

constexpr int SENSORY_STEPS = LTC_ROWS;  // as in ltc_dense.inl: registers
constexpr int KEPT_UNFOLDS = 3;          // half the default number; 2 and 6 take as long

// n and d of a neuron, as a forward saves them. Lanes past the batch read 0, so that stages stay
// where they are; but 1 as d where they divide by cm + k d, for cm may be 0.
struct SavedSums {
  vf n, d;
};
template <bool STAGED>
static inline SavedSums load_sums(const float* at, long live) {
  return {load_partial(at, live), load_partial(at + live, live, STAGED ? 0.0f : 1.0f)};
}

// Sums of half the lanes of a and b, side by side: in every four lanes those of neighbouring pairs
// as [a b a b] (D = 1), those of such sums as [a a b b] (D = 2).
constexpr int half_lane(int lane, int d) {
  return lane / 4 * 4 + (d == 1 ? lane % 4 / 2 : lane % 2) + (lane & d ? int(W) : 0);
}
template <int D, int... LANE>
static inline vf add_halves(vf a, vf b, std::integer_sequence<int, LANE...>) {
  return __builtin_shufflevector(a, b, half_lane(LANE, D)...) +
         __builtin_shufflevector(a, b, 2 + half_lane(LANE, D)...);
}

// Adds the gradients of one synapse over some evaluations, per lane, to its vector of the slab,
// whose lane l holds a part of gradient l % 4.
static inline void add_to_slab(const LtcSynapseGradient<vf>& g, float* slab) {
  constexpr auto lanes = std::make_integer_sequence<int, W>{};
  const vf first = add_halves<1>(g.s2, g.m2, lanes), second = add_halves<1>(g.w, g.we, lanes);
  store(slab, load(slab) + add_halves<2>(first, second, lanes));
}

// What the unfolds of one step share, or their stages, E in all. An unfold's gates and dz are kept
// until the first of its group of KEPT_UNFOLDS is reached, which adds the group's gradients to the
// slab.
template <bool STAGED>
struct ListsStep {
  const LtcProblem& p;
  const SynapseRuns& runs;
  const float *cm, *saved;  // [E, H, 2, live]
  long live, H;
  vf rate;
  float *v, *dv, *dnd;  // [E + 1][H][W], [H][W], [E][H][dn dd][W]
  StageSums stages;
  float* kept;  // [KEPT_UNFOLDS - 1][synapses][gate dz][W]
  float *slab, *dcm;
  long steps_apart;  // of saved values, to prefetch the step before
  bool more;

  // The neuron's own part of unfold u: dL/dv after it -> dn, dd and the direct share of dL/dv
  // before.
  void neuron(long u, long j, vf dv_next, vf* drate) const {
    const long at = u * H + j;
    const float* n_at = saved + at * 2 * live;
    if (more) __builtin_prefetch(n_at - steps_apart), __builtin_prefetch(n_at - steps_apart + live);
    const auto [n, d] = load_sums<STAGED>(n_at, live);
    if constexpr (STAGED) {
      vf dcm_now = load(dcm + j * W), dp;
      const auto sums = stage_backward(stage_of(p, u), dv_next, load(v + at * W), n, d, cm[j], rate,
                                       stages.v + j * W, stages.sum + j * W, &dcm_now, drate, &dp);
      store(dnd + at * 2 * W, sums.dn), store(dnd + (at * 2 + 1) * W, sums.dd);
      store(dcm + j * W, dcm_now), store(dv + j * W, dp);
      return;
    }
    const vf next = load(v + (at + H) * W);
    const vf g = ltc_update_backward(dv_next, d, splat(cm[j]), rate);
    const auto sums = ltc_sums_backward(g, next, rate);
    store(dnd + at * 2 * W, sums.dn), store(dnd + (at * 2 + 1) * W, sums.dd);
    store(dcm + j * W, ltc_cm_backward(load(dcm + j * W), g, load(v + at * W), next));
    store(dv + j * W, g * cm[j]);
    *drate = ltc_k_backward(*drate, g, n, d, next);
  }

  // dL/dv of source i before unfold u. N unfolds from u on add their gradients; with N = 0 this one
  // is kept.
  template <int N>
  vf source(long u, long i) const {
    const long row = H * W, count = runs.count;
    const float* const now = dnd + u * 2 * row;
    vf vs[N + 1], sum = vf{};
    for (int k = 0; k < N || k == 0; ++k) vs[k] = load(v + (u * H + i) * W + k * row);
    for (int e = runs.begin[i], end = runs.begin[i + 1]; e < end; ++e) {
      const FoldedSynapse& s = runs.synapses[e];
      const float* const at = now + s.target * 2 * W;
      const vf gate = ltc_gate(vs[0], s.s2, s.m2), n = load(at), d = load(at + W),
               dz = ltc_gate_backward(gate, s.w, s.we, n, d);
      sum = ltc_source_backward(sum, dz, s.s2);
      if constexpr (N == 0) {
        float* to = kept + ((u % KEPT_UNFOLDS - 1) * count + e) * 2 * W;
        store(to, gate), store(to + W, dz);
      } else {
        auto sums = ltc_synapse_backward(dz, vs[0], gate, n, d);
        for (int k = 1; k < N; ++k) {
          const float *then = at + k * 2 * row, *from = kept + ((k - 1) * count + e) * 2 * W;
          sums = ltc_synapse_backward(sums, load(from + W), vs[k], load(from), load(then),
                                      load(then + W));
        }
        add_to_slab(sums, slab + e * W);
      }
    }
    return ltc_folded_gradient(sum);
  }

  // Every source of unfold u, each followed by its neuron's part of the unfold before.
  template <int N>
  void sources(long u, long adding, vf* drate) const {
    if constexpr (N > 1)
      if (adding < N) return sources<N - 1>(u, adding, drate);
    vf sum = *drate;
    for (long i = 0; i < H; ++i) {
      const vf grad = load(dv + i * W) + source<N>(u, i);
      u > 0 ? neuron(u - 1, i, grad, &sum) : store(dv + i * W, grad);
    }
    *drate = sum;
  }

  // The sums over the unfolds: out [H][dn dd][W], and the leak's gradients, which lie behind dcm.
  void add_up(long U, float* out) const {
    for (long j = 0; j < H; ++j)
      for (long part = 0; part < 2; ++part) {
        vf sum = vf{};
        for (long u = U - 1; u >= 0; --u) sum += load(dnd + ((u * H + j) * 2 + part) * W);
        store(out + (j * 2 + part) * W, sum);
        float* leak = dcm + ((part + 1) * H + j) * W;
        store(leak, load(leak) + sum);
      }
  }
};

// The sensory synapses of N steps; x, dx: [N][runs.neurons][W], dnd: [N][row], a row [H][dn dd][W].
template <int N = SENSORY_STEPS>
static void backward_inputs(long steps, const SynapseRuns& runs, const float* x, const float* dnd,
                            long row, float* dx, float* slab) {
  if constexpr (N > 1)
    if (steps < N) return backward_inputs<N - 1>(steps, runs, x, dnd, row, dx, slab);
  for (long i = 0; i < runs.neurons; ++i) {
    vf xs[N], sum[N];
    for (int t = 0; t < N; ++t) xs[t] = load(x + (t * runs.neurons + i) * W), sum[t] = vf{};
    for (int e = runs.begin[i], end = runs.begin[i + 1]; e < end; ++e) {
      const FoldedSynapse& s = runs.synapses[e];
      LtcSynapseGradient<vf> sums{};
      for (int t = 0; t < N; ++t) {
        const float* at = dnd + t * row + s.target * 2 * W;
        const vf gate = ltc_gate(xs[t], s.s2, s.m2), n = load(at), d = load(at + W);
        const vf dz = ltc_gate_backward(gate, s.w, s.we, n, d);
        sums = ltc_synapse_backward(sums, dz, xs[t], gate, n, d);
        sum[t] = ltc_source_backward(sum[t], dz, s.s2);
      }
      add_to_slab(sums, slab + e * W);
    }
    for (int t = 0; t < N; ++t) store(dx + (t * runs.neurons + i) * W, ltc_folded_gradient(sum[t]));
  }
}

}  // namespace
}  // namespace mlx_ncps
