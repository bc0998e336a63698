// The backward twin of ltc_lists.inl: synapses in runs of equal source, so that dL/dv_i stays in a
// register; each synapse's four gradients accumulate in the task's slab, a vector per synapse. A
// slab entry is touched once for several evaluations of its synapse: several steps of the sensory
// synapses, which nothing waits for, and several unfolds of the recurrent ones, whose gates and dz
// are kept until then.
#pragma once

#include "csrc/cpu/ltc_dense_backward.inl"
#include "csrc/cpu/ltc_lists.inl"

namespace mlx_ncps {
namespace {

constexpr int SENSORY_STEPS = LTC_ROWS;  // as in ltc_dense.inl: registers
constexpr int KEPT_UNFOLDS = 3;          // half the default number; 2 and 6 take as long

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

// What the unfolds of one step share. An unfold's gates and dz are kept until the first of its
// group of KEPT_UNFOLDS is reached, which adds the group's gradients to the slab.
struct ListsStep {
  const SynapseRuns& runs;
  const float *cm, *saved;  // [U, H, 2, live]
  long live, H;
  vf rate;
  float *v, *dv, *dnd;  // [U + 1][H][W], [H][W], [U][H][dn dd][W]
  float* kept;          // [KEPT_UNFOLDS - 1][synapses][gate dz][W]
  float *slab, *dcm;
  long steps_apart;  // of saved values, to prefetch the step before
  bool more;

  // The neuron's own part of unfold u: dL/dv after it -> dn, dd and the direct share of dL/dv
  // before.
  void neuron(long u, long j, vf dv_next, vf* drate) const {
    const long at = u * H + j;
    const float* n_at = saved + at * 2 * live;
    if (more) __builtin_prefetch(n_at - steps_apart), __builtin_prefetch(n_at - steps_apart + live);
    const vf n = load_partial(n_at, live), d = load_partial(n_at + live, live);
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

static LtcSlab take_lists_slab(const LtcProblem& p, Carver& memory) {
  return {.recurrent = memory.take(p.recurrent_count * W),
          .sensory = memory.take(p.sensory_count * W),
          .neurons = memory.take(3 * p.H * W)};  // [dcm dleak_num dleak_den][H][W]
}

// What the rows of a task are computed in: [U + 1][H][W], [H][W], [U][H][dn dd][W],
// [KEPT_UNFOLDS - 1][synapses][gate dz][W]; of each waiting step [H][dn dd][W], [I][W], [I][W].
struct ListsBackwardRows {
  float *v, *dv, *dnd, *kept;
  float *step_dnd, *x, *dx;
  float *ts, *dts;
  float* rows;  // of the LSTM: its h* [W][Hp]
  LstmBackwardRows lstm;
};

static ListsBackwardRows take_lists_backward(const LtcProblem& p, const LtcLists& k,
                                             const RowBlock& block, const LstmSlab& lstm,
                                             Carver& memory) {
  const long row = p.H * W;
  return {.v = memory.take((p.U + 1) * row),
          .dv = memory.take(row),
          .dnd = memory.take(p.U * 2 * row),
          .kept = memory.take((KEPT_UNFOLDS - 1) * k.recurrent.count * 2 * W),
          .step_dnd = memory.take(SENSORY_STEPS * 2 * row),
          .x = memory.take(SENSORY_STEPS * p.I * W),
          .dx = memory.take(SENSORY_STEPS * p.I * W),
          .ts = memory.take(W),
          .dts = memory.take(W),
          .rows = memory.take(k.lstm.p.on ? round_up(p.H, W) * W : 0),
          .lstm = make_lstm_rows(k.lstm, lstm, block.b, block.live, memory)};
}

// Not inlined: GCC keeps less of the loops in registers within its caller.
__attribute__((noinline)) static void ltc_lists_backward_rows(
    const LtcProblem& p, const LtcLists& lists, const RowBlock& block, const LtcSlab& sums,
    const LtcSlab& totals, long slab_floats, const LstmSlab& lstm_sums) {
  const Lstm& k = lists.lstm;
  const long H = p.H, I = p.I, T = p.T, U = p.U, b = block.b, live = block.live, row = H * W,
             Hp = round_up(H, W);
  const Carved own(
      [&](Carver& memory) { return take_lists_backward(p, lists, block, lstm_sums, memory); });
  float *v = own->v, *dv = own->dv, *step_dnd = own->step_dnd, *x = own->x, *dx = own->dx,
        *ts = own->ts, *dts = own->dts, *rows = own->rows;
  const LstmBackwardRows& lstm = own->lstm;
  fill(dv, row, 0.0f);
  const auto starts = [&](long t) {  // a run of steps whose sensory synapses are evaluated together
    return t % SENSORY_STEPS == 0 || (p.lstm.on && t % lstm.chunk == 0);
  };
  for (long t = T - 1, waiting = 0; t >= 0; --t) {
    stop_if_interrupted();
    float* const now = step_dnd + waiting * 2 * row;
    gather_rows(p.ts + b * T + t, T, 1, live, ts);
    gather_rows(p.x + (b * T + t) * I, T * I, I, live, x + waiting * I * W, t > 0 ? -I : 0);
    ++waiting;
    if (p.lstm.on) {
      lstm_recall(k, b, live, t, rows, Hp);
      gather_rows(rows, Hp, H, live, v);
    } else {
      gather_rows(state_before(k, p.v, p.v0, b, t), t > 0 ? T * H : H, H, live, v, t > 1 ? -H : 0);
    }
    gather_rows(p.dv + (b * T + t) * H, T * H, H, live, now, t > 0 ? -H : 0);
    for (long j = 0; j < H; ++j)  // lanes past the batch stay 0
      store_partial(dv + j * W, load(dv + j * W) + load(now + j * W), live);
    const vf rate = load(ts) / float(U);
    const float* saved = block.saved + t * U * 2 * H * live;
    for (long u = 0, at = 0; u < U; ++u)
      for (long j = 0; j < H; ++j, ++at) {
        const float* n = saved + at * 2 * live;
        store(v + row + at * W, ltc_update(load(v + at * W), load_partial(n, live),
                                           load_partial(n + live, live), p.cm[j], rate));
      }
    const ListsStep step{.runs = lists.recurrent,
                         .cm = p.cm,
                         .saved = saved,
                         .live = live,
                         .H = H,
                         .rate = rate,
                         .v = v,
                         .dv = dv,
                         .dnd = own->dnd,
                         .kept = own->kept,
                         .slab = sums.recurrent,
                         .dcm = sums.neurons,
                         .steps_apart = U * 2 * H * live,
                         .more = t > 0};
    vf drate = vf{};
    for (long j = 0; j < H; ++j) step.neuron(U - 1, j, load(dv + j * W), &drate);
    for (long u = U - 1; u >= 0; --u)
      u % KEPT_UNFOLDS > 0 ? step.sources<0>(u, 0, &drate)
                           : step.sources<KEPT_UNFOLDS>(u, min_of(KEPT_UNFOLDS, U - u), &drate);
    step.add_up(U, now);
    if (starts(t)) {
      backward_inputs(waiting, lists.sensory, x, step_dnd, 2 * row, dx, sums.sensory);
      for (long later = 0; waiting > 0; ++later)
        scatter_rows(dx + --waiting * I * W, I, live, p.dx + (b * T + t + later) * I, T * I);
    }
    store(dts, drate / float(U));
    scatter_rows(dts, 1, live, p.dts + b * T + t, T);
    if (p.lstm.on) {
      scatter_rows(dv, H, live, rows, Hp);
      lstm_backward_after_dx(lstm, t, rows, Hp);
      for (long lane = 0; lane < live; ++lane)  // lanes past the batch stay 0
        for (long j = 0; j < H; ++j) dv[j * W + lane] = rows[lane * Hp + j];
    }
    if (t % FLUSH_STEPS == 0) flush(totals.recurrent, sums.recurrent, slab_floats);
  }
  if (p.lstm.on) lstm_finish(lstm);
  scatter_rows(dv, H, live, p.dv0 + b * H, H);
}

// Sums lanes and tasks in a fixed order into the dense gradient matrices, which are zero where
// there is no synapse.
template <typename Layout>
static void unpack_runs(const SynapseRuns& runs, long units, long sources,
                        const Slabs<Layout>& slabs, const float* first,
                        const SynapseGradients& out) {
  float* const parts[4] = {out.s2, out.m2, out.w, out.we};
  for (int part = 0; part < 4; ++part) fill(parts[part], sources * units, 0.0f);
  for (long e = 0; e < runs.count; ++e)
    for (int part = 0; part < 4; ++part) {
      float sum = 0.0f;
      for (long s = 0; s < slabs.count; ++s)
        for (long lane = part; lane < W; lane += 4) sum += first[s * slabs.stride + e * W + lane];
      parts[part][runs.synapses[e].source * units + runs.synapses[e].target] =
          part < 2 ? ltc_folded_gradient(sum) : sum;
    }
}

static void ltc_lists_backward(const LtcProblem& p) {
  const Carved made([&](Carver& memory) { return make_ltc_lists(p, true, memory); });
  const LtcLists& k = made.arrays;
  const long blocks = row_blocks(p, p.B), tasks = min_of(blocks, MAX_SLABS);
  const auto layout = [&](Carver& memory) { return take_lists_slab(p, memory); };
  const Slabs totals(layout, tasks), sums(layout, tasks);
  const auto lstm = lstm_slabs(k.lstm, tasks);
  auto body = [&](long task) {
    const LtcSlab total = totals.cleared(task), sum = sums.cleared(task);
    const LstmSlab lstm_sum = lstm.cleared(task);
    for (long block = blocks * task / tasks; block < blocks * (task + 1) / tasks; ++block)
      ltc_lists_backward_rows(p, k, row_block(p, p.B, block), sum, total, sums.stride, lstm_sum);
  };
  parallel(tasks, body);
  unpack_lstm(k.lstm, lstm);
  const LtcSlab first = totals.of(0);
  unpack_runs(k.recurrent, p.H, p.H, totals, first.recurrent, p.drecurrent);
  unpack_runs(k.sensory, p.H, p.I, totals, first.sensory, p.dsensory);
  float* const neurons[3] = {p.dcm, p.dleak_num, p.dleak_den};
  for (int part = 0; part < 3; ++part)
    for (long j = 0; j < p.H; ++j) {
      neurons[part][j] = 0.0f;
      for (long s = 0; s < tasks; ++s)
        neurons[part][j] +=
            horizontal_sum(load(first.neurons + s * totals.stride + (part * p.H + j) * W));
    }
}

static void ltc_forward(const LtcProblem& p, LtcKernel kernel) {
  kernel == LtcKernel::LISTS ? ltc_lists_forward(p) : ltc_dense_forward(p);
}
static void ltc_backward(const LtcProblem& p, LtcKernel kernel) {
  kernel == LtcKernel::LISTS ? ltc_lists_backward(p) : ltc_dense_backward(p);
}

}  // namespace
}  // namespace mlx_ncps
