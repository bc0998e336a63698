// The backward twin of ltc_lists.inl: walks T and U from the end, sums parameter gradients in a
// slab per task, and reduces the slabs in a fixed order.
#pragma once

#include "csrc/cpu/ltc_dense_backward.inl"
#include "csrc/cpu/ltc_lists_synapses.inl"

namespace mlx_ncps {
namespace {

static LtcSlab take_lists_slab(const LtcProblem& p, Carver& memory) {
  return {.recurrent = memory.take(p.recurrent_count * W),
          .sensory = memory.take(p.sensory_count * W),
          .neurons = memory.take(3 * p.H * W)};  // [dcm dleak_num dleak_den][H][W]
}

// What the rows of a task are computed in: [E + 1][H][W], [H][W], [E][H][dn dd][W],
// [KEPT_UNFOLDS - 1][synapses][gate dz][W]; of each waiting step [H][dn dd][W], [I][W], [I][W].
struct ListsBackwardRows {
  float *v, *dv, *dnd, *kept;
  StageSums stages;
  float *step_dnd, *x, *dx;
  float *ts, *dts;
  float* rows;  // of the LSTM: its h* [W][Hp]
  LstmBackwardRows lstm;
};

static ListsBackwardRows take_lists_backward(const LtcProblem& p, const LtcLists& k,
                                             const RowBlock& block, const LstmSlab& lstm,
                                             Carver& memory) {
  const long row = p.H * W, E = evaluations_of(p);
  return {.v = memory.take((E + 1) * row),
          .dv = memory.take(row),
          .dnd = memory.take(E * 2 * row),
          .kept = memory.take((KEPT_UNFOLDS - 1) * k.recurrent.count * 2 * W),
          .stages = take_stage_sums(p, row, memory),
          .step_dnd = memory.take(SENSORY_STEPS * 2 * row),
          .x = memory.take(SENSORY_STEPS * p.I * W),
          .dx = memory.take(SENSORY_STEPS * p.I * W),
          .ts = memory.take(W),
          .dts = memory.take(W),
          .rows = memory.take(k.lstm.p.on ? round_up(p.H, W) * W : 0),
          .lstm = make_lstm_rows(k.lstm, lstm, block.b, block.live, memory)};
}

// The twin of start_lanes_anew.
static void start_lanes_anew_backward(const LtcProblem& p, long b, long live, long t, float* dv) {
  for (long lane = 0; lane < live; ++lane) {
    if (!starts_anew(p.resets, p.T, b + lane, t)) continue;
    for (long j = 0; j < p.H; ++j) {
      p.resets.dstate[(b + lane) * p.H + j] += dv[j * W + lane];
      dv[j * W + lane] = 0.0f;
    }
  }
}

// Not inlined: GCC keeps less of the loops in registers within its caller.
template <bool STAGED>
__attribute__((noinline)) static void ltc_lists_backward_rows(
    const LtcProblem& p, const LtcLists& lists, const RowBlock& block, const LtcSlab& sums,
    const LtcSlab& totals, long slab_floats, const LstmSlab& lstm_sums) {
  const Lstm& k = lists.lstm;
  const long H = p.H, I = p.I, T = p.T, U = p.U, E = STAGED ? evaluations_of(p) : U, b = block.b,
             live = block.live, row = H * W, Hp = round_up(H, W);
  const Carved own(
      [&](Carver& memory) { return take_lists_backward(p, lists, block, lstm_sums, memory); });
  float *v = own->v, *dv = own->dv, *step_dnd = own->step_dnd, *x = own->x, *dx = own->dx,
        *ts = own->ts, *dts = own->dts, *rows = own->rows;
  const LstmBackwardRows& lstm = own->lstm;
  fill(dv, row, 0.0f);
  clear_resets(p.resets, p.lstm.dc_anew, T, H, b, live);
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
      start_lanes_anew(p, b, live, t, v);
    }
    gather_rows(p.dv + (b * T + t) * H, T * H, H, live, now, t > 0 ? -H : 0);
    for (long j = 0; j < H; ++j)  // lanes past the batch stay 0
      store_partial(dv + j * W, load(dv + j * W) + load(now + j * W), live);
    const vf rate = load(ts) / float(U);
    const float* saved = block.saved + t * E * 2 * H * live;
    for (long e = 0, at = 0; e < E; ++e) {
      const LtcStage stage = STAGED ? stage_of(p, e) : LtcStage{};
      for (long j = 0; j < H; ++j, ++at) {
        const auto [n, d] = load_sums<STAGED>(saved + at * 2 * live, live);
        if constexpr (STAGED)
          store(v + row + at * W, next_point(stage, load(v + at * W), n, d, p.cm[j], rate,
                                             own->stages.v + j * W, own->stages.sum + j * W));
        else
          store(v + row + at * W, ltc_update(load(v + at * W), n, d, p.cm[j], rate));
      }
    }
    const ListsStep<STAGED> step{.p = p,
                                 .runs = lists.recurrent,
                                 .cm = p.cm,
                                 .saved = saved,
                                 .live = live,
                                 .H = H,
                                 .rate = rate,
                                 .v = v,
                                 .dv = dv,
                                 .dnd = own->dnd,
                                 .stages = own->stages,
                                 .kept = own->kept,
                                 .slab = sums.recurrent,
                                 .dcm = sums.neurons,
                                 .steps_apart = E * 2 * H * live,
                                 .more = t > 0};
    vf drate = vf{};
    for (long j = 0; j < H; ++j) step.neuron(E - 1, j, load(dv + j * W), &drate);
    for (long e = E - 1; e >= 0; --e)
      e % KEPT_UNFOLDS > 0
          ? step.template sources<0>(e, 0, &drate)
          : step.template sources<KEPT_UNFOLDS>(e, min_of(KEPT_UNFOLDS, E - e), &drate);
    step.add_up(E, now);
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
    if (any_starts_anew(p.resets, T, b, live, t)) start_lanes_anew_backward(p, b, live, t, dv);
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
  const auto rows_backward = p.solver == NCPS_LTC_SEMI_IMPLICIT ? ltc_lists_backward_rows<false>
                                                                : ltc_lists_backward_rows<true>;
  auto body = [&](long task) {
    const LtcSlab total = totals.cleared(task), sum = sums.cleared(task);
    const LstmSlab lstm_sum = lstm.cleared(task);
    for (long block = blocks * task / tasks; block < blocks * (task + 1) / tasks; ++block)
      rows_backward(p, k, row_block(p, p.B, block), sum, total, sums.stride, lstm_sum);
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
