// The backward twin of ltc_dense.inl: walks T and U from the end. Gates are recomputed; n and d of
// every unfold were saved, and v follows from them by the forward's own arithmetic. Parameter
// gradients accumulate in one slab per task, reduced in a fixed order.
#pragma once

#include "csrc/cpu/lstm_backward.inl"
#include "csrc/cpu/ltc_dense.inl"

namespace mlx_ncps {
namespace {

// The gradients of a vector of synapses, [s2 m2 w we][W] in a slab.
static inline LtcSynapseGradient<vf> load_gradient(const float* at) {
  return {load(at), load(at + W), load(at + 2 * W), load(at + 3 * W)};
}
static inline void store_gradient(float* at, const LtcSynapseGradient<vf>& g) {
  store(at, g.s2), store(at + W, g.m2), store(at + 2 * W, g.w), store(at + 3 * W, g.we);
}

// The recurrent synapses' gradients with lanes across sources, so that dL/dv_i needs no sum across
// lanes. block, slab: [targets][4][W] of one block of sources; v, dv: [ROWS][Hp] at that block; dn,
// dd: [ROWS][Hp] of all targets. A function of its own: within its caller compilers run out of
// registers.
template <int ROWS>
__attribute__((noinline)) static void backward_recurrent(const float* block, float* slab,
                                                         long targets, const float* v, float* dv,
                                                         long Hp, const float* dn,
                                                         const float* dd) {
  vf vr[ROWS], sum[ROWS], gate[ROWS], next[ROWS];
  for (int r = 0; r < ROWS; ++r) vr[r] = load(v + r * Hp), sum[r] = vf{};
  const auto gates = [&](const float* at) {
    const vf s2 = load(at), m2 = load(at + W);
    for (int r = 0; r < ROWS; ++r) next[r] = ltc_gate(vr[r], s2, m2);
  };
  if (GATES_AHEAD) gates(block);
  for (long j = 0; j < targets; ++j, block += 4 * W, slab += 4 * W) {
    if (!GATES_AHEAD) gates(block);
    for (int r = 0; r < ROWS; ++r) gate[r] = next[r];
    if (GATES_AHEAD && __builtin_expect(j + 1 < targets, 1)) gates(block + 4 * W);
    const vf s2 = load(block), w = load(block + 2 * W), we = load(block + 3 * W);
    auto own = load_gradient(slab);
    for (int r = 0; r < ROWS; ++r) {
      const vf gn = gate[r] * dn[r * Hp + j], gd = gate[r] * dd[r * Hp + j];
      const vf dz = ltc_gate_backward_weighted(gate[r], w, we, gn, gd);
      own = ltc_synapse_backward_weighted(own, dz, vr[r], gn, gd);
      sum[r] = ltc_source_backward(sum[r], dz, s2);
    }
    store_gradient(slab, own);
  }
  for (int r = 0; r < ROWS; ++r) store(dv + r * Hp, ltc_dv(load(dv + r * Hp), sum[r]));
}

// The sensory synapses' gradients with lanes across targets (inputs are often few). x, dx: ROWS
// rows, `stride` apart.
template <int ROWS>
static inline void backward_sensory(const LtcDense& k, float* slab, const float* x, float* dx,
                                    long stride, const float* dn, const float* dd) {
  const long I = k.p.I, Hp = k.Hp;
  for (long i = 0; i < I; ++i) {
    vf sum[ROWS];
    for (int r = 0; r < ROWS; ++r) sum[r] = vf{};
    for (long q = 0; q < Hp; q += W) {
      const float* block = k.sensory.block(q / W) + i * 4 * W;
      float* grad = slab + (q / W * I + i) * 4 * W;
      const vf s2 = load(block), m2 = load(block + W), w = load(block + 2 * W),
               we = load(block + 3 * W);
      auto own = load_gradient(grad);
      for (int r = 0; r < ROWS; ++r) {
        const vf xi = splat(x[r * stride + i]), gate = ltc_gate(xi, s2, m2);
        const vf gn = gate * load(dn + r * Hp + q), gd = gate * load(dd + r * Hp + q);
        const vf dz = ltc_gate_backward_weighted(gate, w, we, gn, gd);
        own = ltc_synapse_backward_weighted(own, dz, xi, gn, gd);
        sum[r] = ltc_source_backward(sum[r], dz, s2);
      }
      store_gradient(grad, own);
    }
    for (int r = 0; r < ROWS; ++r) dx[r * stride + i] = ltc_folded_gradient(horizontal_sum(sum[r]));
  }
}

static LtcSlab take_dense_slab(const LtcDense& k, Carver& memory) {
  return {.recurrent = memory.take(k.Hp * k.p.H * 4),  // [blocks][H][4][W]
          .sensory = memory.take(k.Hp * k.p.I * 4),    // [blocks][I][4][W]
          .neurons = memory.take(3 * k.Hp)};           // [dcm dleak_num dleak_den][Hp]
}

// What the rows of a task are computed in.
struct DenseBackwardRows {
  float *v, *dv, *dn, *dd, *step_dn, *step_dd;  // [E + 1][rows][Hp], [rows][Hp] the others
  StageSums stages;
  LstmBackwardRows lstm;
};

static DenseBackwardRows take_dense_backward(const LtcDense& k, const LstmSlab& lstm, long b,
                                             long rows, Carver& memory) {
  const long row = rows * k.Hp;
  return {.v = memory.take((evaluations_of(k.p) + 1) * row),
          .dv = memory.take(row),
          .dn = memory.take(row),
          .dd = memory.take(row),
          .step_dn = memory.take(row),
          .step_dd = memory.take(row),
          .stages = take_stage_sums(k.p, row, memory),
          .lstm = make_lstm_rows(k.lstm, lstm, b, rows, memory)};
}

// v, or the point of a stage, at evaluation 0 .. E of step t, [E + 1][ROWS][Hp], from the saved n
// and d.
template <int ROWS, bool STAGED>
static inline void replay_step(const LtcDense& k, long b, long t, const float* rate, float* v,
                               const StageSums& sums) {
  const LtcProblem& p = k.p;
  const long H = p.H, Hp = k.Hp, T = p.T, E = STAGED ? evaluations_of(p) : p.U;
  if (p.lstm.on) lstm_recall(k.lstm, b, ROWS, t, v, Hp);
  for (int r = 0; r < ROWS && !p.lstm.on; ++r)
    copy(v + r * Hp, state_read(k.lstm, p.v, p.v0, p.resets.state, b + r, t), H);
  for (long e = 0; e < E; ++e) {
    const LtcStage stage = STAGED ? stage_of(p, e) : LtcStage{};
    for (int r = 0; r < ROWS; ++r) {
      const float* saved = p.saved + (((b + r) * T + t) * E + e) * 2 * H;
      const float* now = v + (e * ROWS + r) * Hp;
      float* next = v + ((e + 1) * ROWS + r) * Hp;
      for (long q = 0; q < Hp; q += W) {
        const vf n = load_partial(saved + q, H - q), d = load_partial(saved + H + q, H - q);
        if constexpr (STAGED)
          store(next + q, next_point(stage, load(now + q), n, d, load(k.cm + q), splat(rate[r]),
                                     sums.v + r * Hp + q, sums.sum + r * Hp + q));
        else
          store(next + q, ltc_update(load(now + q), n, d, load(k.cm + q), splat(rate[r])));
      }
    }
  }
}

// The neurons' own part of one unfold's gradient: dv -> dn, dd and the direct share of dL/dv;
// returns nothing, sums into slab and drate.
template <int ROWS, bool STAGED>
static inline void backward_neurons(const LtcDense& k, const float* saved, long saved_stride,
                                    const float* v, const float* v_next, float* dv, float* dn,
                                    float* dd, float* step_dn, float* step_dd, const float* rate,
                                    float* dcm, vf* drate, const LtcStage& stage,
                                    const StageSums& unfold) {
  const long H = k.p.H, Hp = k.Hp;
  for (int r = 0; r < ROWS; ++r)
    for (long q = 0; q < Hp; q += W) {
      const long at = r * Hp + q;
      const vf n = load_partial(saved + r * saved_stride + q, H - q),
               d = load_partial(saved + r * saved_stride + H + q, H - q);
      const vf cm = load(k.cm + q);
      LtcSumsGradient<vf> sums;
      if constexpr (STAGED) {
        vf dcm_now = load(dcm + q), dp;
        sums = stage_backward(stage, load(dv + at), load(v + at), n, d, cm, splat(rate[r]),
                              unfold.v + at, unfold.sum + at, &dcm_now, &drate[r], &dp);
        store(dcm + q, dcm_now), store(dv + at, dp);
      } else {
        const vf next = load(v_next + at);
        const vf g = ltc_update_backward(load(dv + at), d, cm, splat(rate[r]));
        sums = ltc_sums_backward(g, next, rate[r]);
        store(dcm + q, ltc_cm_backward(load(dcm + q), g, load(v + at), next));
        store(dv + at, g * cm);
        drate[r] = ltc_k_backward(drate[r], g, n, d, next);
      }
      store(dn + at, sums.dn), store(dd + at, sums.dd);
      store(step_dn + at, load(step_dn + at) + sums.dn);
      store(step_dd + at, load(step_dd + at) + sums.dd);
    }
}

template <bool STAGED, int ROWS>
static void ltc_dense_backward_rows(const LtcDense& k, long b, const LtcSlab& sums,
                                    const LtcSlab& totals, long slab_floats,
                                    const LstmSlab& lstm_sums) {
  const LtcProblem& p = k.p;
  const long H = p.H, Hp = k.Hp, T = p.T, U = p.U, E = STAGED ? evaluations_of(p) : U,
             row = ROWS * Hp;
  const Carved own(
      [&](Carver& memory) { return take_dense_backward(k, lstm_sums, b, ROWS, memory); });
  float *v = own->v, *dv = own->dv, *dn = own->dn, *dd = own->dd, *step_dn = own->step_dn,
        *step_dd = own->step_dd;
  const LstmBackwardRows& lstm = own->lstm;
  fill(v, (E + 1) * row, 0.0f);
  for (float* one : {dv, dn, dd}) fill(one, row, 0.0f);
  clear_resets(p.resets, p.lstm.dc_anew, T, H, b, ROWS);
  for (long t = T - 1; t >= 0; --t) {
    stop_if_interrupted();
    float rate[ROWS];
    vf drate[ROWS];
    for (int r = 0; r < ROWS; ++r) {
      rate[r] = p.ts[(b + r) * T + t] / float(U);
      drate[r] = vf{};
      add_to(dv + r * Hp, p.dv + ((b + r) * T + t) * H, H);
    }
    fill(step_dn, row, 0.0f), fill(step_dd, row, 0.0f);
    replay_step<ROWS, STAGED>(k, b, t, rate, v, own->stages);
    for (long e = E - 1; e >= 0; --e) {
      backward_neurons<ROWS, STAGED>(k, p.saved + ((b * T + t) * E + e) * 2 * H, T * E * 2 * H,
                                     v + e * row, v + (e + 1) * row, dv, dn, dd, step_dn, step_dd,
                                     rate, sums.neurons, drate,
                                     STAGED ? stage_of(p, e) : LtcStage{}, own->stages);
      for (long q = 0; q < Hp; q += W)
        backward_recurrent<ROWS>(k.recurrent_by_source.block(q / W), sums.recurrent + q * H * 4, H,
                                 v + e * row + q, dv + q, Hp, dn, dd);
    }
    backward_sensory<ROWS>(k, sums.sensory, p.x + (b * T + t) * p.I, p.dx + (b * T + t) * p.I,
                           T * p.I, step_dn, step_dd);
    for (int r = 0; r < ROWS; ++r) {
      p.dts[(b + r) * T + t] = horizontal_sum(drate[r]) / float(U);
      add_to(sums.neurons + Hp, step_dn + r * Hp, Hp);
      add_to(sums.neurons + 2 * Hp, step_dd + r * Hp, Hp);
    }
    if (p.lstm.on) lstm_backward_after_dx(lstm, t, dv, Hp);
    start_anew_backward(p.resets, p.resets.dstate, T, H, b, ROWS, t, dv, Hp);
    if (t % FLUSH_STEPS == 0) flush(totals.recurrent, sums.recurrent, slab_floats);
  }
  if (p.lstm.on) lstm_finish(lstm);
  for (int r = 0; r < ROWS; ++r) copy(p.dv0 + (b + r) * H, dv + r * Hp, H);
}

template <bool STAGED, int ROWS = LTC_ROWS>
static void ltc_dense_backward_task(const LtcDense& k, long b, long rows, const LtcSlab& sum,
                                    const LtcSlab& total, long slab_floats, const LstmSlab& lstm) {
  if (rows == ROWS)
    return ltc_dense_backward_rows<STAGED, ROWS>(k, b, sum, total, slab_floats, lstm);
  if constexpr (ROWS > 1)
    ltc_dense_backward_task<STAGED, ROWS - 1>(k, b, rows, sum, total, slab_floats, lstm);
}

// Sums the tasks' slabs in order and undoes the blocking.
template <typename Layout>
static void unpack_gradients(const Slabs<Layout>& slabs, const float* first, long sources,
                             long targets, bool transposed, const SynapseGradients& out) {
  const long lanes = transposed ? sources : targets, others = transposed ? targets : sources;
  float* const parts[4] = {out.s2, out.m2, out.w, out.we};
  for (long n = 0; n < lanes; ++n)
    for (long o = 0; o < others; ++o)
      for (int part = 0; part < 4; ++part) {
        const float sum = slabs.sum(first + ((n / W * others + o) * 4 + part) * W + n % W);
        parts[part][transposed ? n * targets + o : o * targets + n] =
            part < 2 ? ltc_folded_gradient(sum) : sum;
      }
}

static void ltc_dense_backward(const LtcProblem& p) {
  const Carved made([&](Carver& memory) { return make_ltc_dense(p, true, memory); });
  const LtcDense& k = made.arrays;
  // The number of slabs depends on the shape alone, so that results do not depend on the number of
  // threads.
  const long rows = even_rows(p.B, LTC_ROWS, share_work(ltc_operations(k), 2)),
             blocks = (p.B + rows - 1) / rows, tasks = min_of(blocks, MAX_SLABS);
  const auto layout = [&](Carver& memory) { return take_dense_slab(k, memory); };
  const Slabs totals(layout, tasks), sums(layout, tasks);
  const auto lstm = lstm_slabs(k.lstm, tasks);
  const auto rows_backward = p.solver == NCPS_LTC_SEMI_IMPLICIT ? ltc_dense_backward_task<false>
                                                                : ltc_dense_backward_task<true>;
  auto body = [&](long task) {
    const LtcSlab total = totals.cleared(task), sum = sums.cleared(task);
    const LstmSlab lstm_sum = lstm.cleared(task);
    for (long block = blocks * task / tasks; block < blocks * (task + 1) / tasks; ++block)
      rows_backward(k, block * rows, min_of(rows, p.B - block * rows), sum, total, sums.stride,
                    lstm_sum);
  };
  parallel(tasks, body);
  unpack_lstm(k.lstm, lstm);
  const LtcSlab first = totals.of(0);
  unpack_gradients(totals, first.recurrent, p.H, p.H, true, p.drecurrent);
  unpack_gradients(totals, first.sensory, p.I, p.H, false, p.dsensory);
  float* const neurons[3] = {p.dcm, p.dleak_num, p.dleak_den};
  for (int part = 0; part < 3; ++part)
    for (long j = 0; j < p.H; ++j) neurons[part][j] = totals.sum(first.neurons + part * k.Hp + j);
}

}  // namespace
}  // namespace mlx_ncps
