// LTC over whole sequences, lanes across batch rows, synapses from lists (MATHS 3): wirings with
// few synapses, and any wiring of few neurons. A task owns W batch rows; arrays of the task are
// [neurons][W].
#pragma once

#include "csrc/cpu/ltc_dense.inl"

namespace mlx_ncps {
namespace {

// One synapse of the list, ready to run.
struct FoldedSynapse {
  float s2, m2, w, we;
  int source, target;
  int order;  // its place in the caller's list: where its gradient goes
  int unused;
};

struct SynapseRuns {
  FoldedSynapse* synapses;
  int* begin;  // [neurons + 1]: the run of each target, or of each source
  long count, neurons;
};

// Copies the list, stably sorted by target or by source.
static SynapseRuns make_runs(const SynapseMatrices& m, const Synapse* list, long count, long units,
                             long neurons, bool by_source, Carver& memory) {
  static_assert(sizeof(FoldedSynapse) == 8 * sizeof(float), "carved in floats");
  SynapseRuns runs{reinterpret_cast<FoldedSynapse*>(memory.take(count * 8)),
                   reinterpret_cast<int*>(memory.take(neurons + 1)), count, neurons};
  if (!memory.base) return runs;
  for (long n = 0; n <= neurons; ++n) runs.begin[n] = 0;
  for (long e = 0; e < count; ++e) ++runs.begin[(by_source ? list[e].source : list[e].target) + 1];
  for (long n = 0; n < neurons; ++n) runs.begin[n + 1] += runs.begin[n];
  for (long e = 0; e < count; ++e) {
    const long at = list[e].source * units + list[e].target;
    const int place = runs.begin[by_source ? list[e].source : list[e].target]++;
    runs.synapses[place] = {m.s2[at],       m.m2[at],       m.w[at], m.we[at],
                            list[e].source, list[e].target, int(e),  0};
  }
  for (long n = neurons; n > 0; --n) runs.begin[n] = runs.begin[n - 1];
  runs.begin[0] = 0;
  return runs;
}

// out [columns][W] <- rows b .. b + W of a row-major array, `stride` apart; rows past the batch
// repeat the last one. What lies `next` further on is prefetched: the step to come.
static inline void gather_rows(const float* rows, long stride, long columns, long live, float* out,
                               long next = 0) {
  const auto row = [&](long lane) { return rows + (lane < live ? lane : live - 1) * stride; };
  vf tile[W];
  long c = 0;
  for (; c + W <= columns; c += W) {
    for (long lane = 0; lane < W; ++lane) tile[lane] = load(row(lane) + c);
    if (next != 0 && c % 16 == 0)
      for (long lane = 0; lane < live; ++lane) __builtin_prefetch(row(lane) + c + next, 0, 2);
    transpose(tile);
    for (long n = 0; n < W; ++n) store(out + (c + n) * W, tile[n]);
  }
  for (; c < columns; ++c)
    for (long lane = 0; lane < W; ++lane) out[c * W + lane] = row(lane)[c];
}
static inline void scatter_rows(const float* in, long columns, long live, float* rows,
                                long stride) {
  vf tile[W];
  long c = 0;
  for (; c + W <= columns; c += W) {
    for (long n = 0; n < W; ++n) tile[n] = load(in + (c + n) * W);
    transpose(tile);
    for (long lane = 0; lane < live; ++lane) store(rows + lane * stride + c, tile[lane]);
  }
  for (; c < columns; ++c)
    for (long lane = 0; lane < live; ++lane) rows[lane * stride + c] = in[c * W + lane];
}

// The lanes that start anew at step t: [H][W] states as `start_anew` has rows of them.
static inline void start_lanes_anew(const LtcProblem& p, long b, long live, long t, float* v) {
  if (!any_starts_anew(p.resets, p.T, b, live, t)) return;
  for (long lane = 0; lane < W; ++lane) {  // lanes past the batch repeat the last one
    const long row = b + min_of(lane, live - 1);
    if (!starts_anew(p.resets, p.T, row, t)) continue;
    for (long j = 0; j < p.H; ++j) v[j * W + lane] = p.resets.state[row * p.H + j];
  }
}

static inline void accumulate_run(const SynapseRuns& runs, long target, const float* v, vf* num,
                                  vf* den) {
  vf n = *num, d = *den;
  for (int e = runs.begin[target]; e < runs.begin[target + 1]; ++e) {
    const FoldedSynapse& s = runs.synapses[e];
    const vf gate = ltc_gate(load(v + s.source * W), s.s2, s.m2);
    d += gate * s.w;
    n += gate * s.we;
  }
  *num = n, *den = d;
}

// The rows of a task: W of them at most, of one element of a mapped batch where values are saved.
struct RowBlock {
  long b, live;
  float* saved;  // [T, E, H, 2, live]
};
static long row_blocks(const LtcProblem& p, long element) {
  return element > 0 ? p.B / element * ((element + W - 1) / W) : 0;
}
static RowBlock row_block(const LtcProblem& p, long element, long index) {
  const long blocks = (element + W - 1) / W, within = index % blocks * W,
             b = index / blocks * element + within;
  return {b, min_of(W, element - within),
          p.saved ? p.saved + b * p.T * evaluations_of(p) * 2 * p.H : nullptr};
}

// What the rows of a task are computed in; [neurons][W].
struct ListsRows {
  float *v, *v_next, *n0, *d0, *x, *ts;
  StageSums stages;
  float *rows, *lstm;  // of the LSTM: its h* [W][Hp], and its z
};

static ListsRows take_lists_rows(const LtcProblem& p, const Lstm& k, long live, Carver& memory) {
  const long row = p.H * W;
  return {.v = memory.take(row),
          .v_next = memory.take(row),
          .n0 = memory.take(row),
          .d0 = memory.take(row),
          .x = memory.take(p.I * W),
          .ts = memory.take(W),
          .stages = take_stage_sums(p, row, memory),
          .rows = memory.take(k.p.on ? round_up(p.H, W) * W : 0),
          .lstm = take_lstm(k, live, memory)};
}

// Steps t0 .. end of a block, at most `chunk`; as in ltc_dense_forward_rows, on any thread.
template <bool STAGED>
static void ltc_lists_forward_rows(const LtcProblem& p, const SynapseRuns& recurrent,
                                   const SynapseRuns& sensory, const Lstm& k, const RowBlock& block,
                                   long t0, long end, long chunk) {
  const long H = p.H, I = p.I, T = p.T, U = p.U, E = STAGED ? evaluations_of(p) : U, b = block.b,
             live = block.live, Hp = round_up(H, W);
  float* saved = block.saved ? block.saved + t0 * E * H * 2 * live : nullptr;
  const Carved own([&](Carver& memory) { return take_lists_rows(p, k, live, memory); });
  float *v = own->v, *v_next = own->v_next, *n0 = own->n0, *d0 = own->d0, *x = own->x,
        *ts = own->ts, *rows = own->rows;
  const LstmRows lstm{k, b, live, chunk, own->lstm};
  gather_rows(state_before(k, p.v, p.v0, b, t0), t0 > 0 ? T * H : H, H, live, v);
  for (long t = t0; t < end; ++t) {
    stop_if_interrupted();
    gather_rows(p.x + (b * T + t) * I, T * I, I, live, x, t + 1 < T ? I : 0);
    gather_rows(p.ts + b * T + t, T, 1, live, ts);
    const vf rate = load(ts) / float(U);
    if (p.lstm.on) {
      lstm_step(lstm, t, rows, Hp);
      gather_rows(rows, Hp, H, live, v);
    } else {
      start_lanes_anew(p, b, live, t, v);
    }
    for (long j = 0; j < H; ++j) {
      vf n = splat(p.leak_num[j]), d = splat(p.leak_den[j]);
      accumulate_run(sensory, j, x, &n, &d);
      store(n0 + j * W, n), store(d0 + j * W, d);
    }
    for (long e = 0; e < E; ++e) {
      const LtcStage stage = STAGED ? stage_of(p, e) : LtcStage{};
      for (long j = 0; j < H; ++j) {
        vf n = load(n0 + j * W), d = load(d0 + j * W);
        accumulate_run(recurrent, j, v, &n, &d);
        if constexpr (STAGED)
          store(v_next + j * W, next_point(stage, load(v + j * W), n, d, p.cm[j], rate,
                                           own->stages.v + j * W, own->stages.sum + j * W));
        else
          store(v_next + j * W, ltc_update(load(v + j * W), n, d, p.cm[j], rate));
        if (!saved) continue;
        store_partial(saved, n, live), store_partial(saved + live, d, live);
        // 32 neurons on, for writing
        __builtin_prefetch(saved + 64 * live, 1), __builtin_prefetch(saved + 65 * live, 1);
        saved += 2 * live;
      }
      float* swap = v;
      v = v_next, v_next = swap;
    }
    scatter_rows(v, H, live, p.v + (b * T + t) * H, T * H);
  }
}

// The synapses and the LSTM, packed. A forward walks the synapses by target, a backward by source.
struct LtcLists {
  SynapseRuns recurrent, sensory;
  Lstm lstm;
};

static LtcLists make_ltc_lists(const LtcProblem& p, bool backward, Carver& memory) {
  return {.recurrent = make_runs(p.recurrent, p.recurrent_list, p.recurrent_count, p.H, p.H,
                                 backward, memory),
          .sensory = make_runs(p.sensory, p.sensory_list, p.sensory_count, p.H,
                               backward ? p.I : p.H, backward, memory),
          .lstm = make_lstm(p, p.v0, p.v, backward, memory)};
}

static void ltc_lists_forward_all(const LtcProblem& p, const SynapseRuns& recurrent,
                                  const SynapseRuns& sensory, const Lstm& lstm) {
  const long element = p.saved ? p.element : p.B;
  const long chunk = lstm_chunk(lstm, W);
  const auto rows = p.solver == NCPS_LTC_SEMI_IMPLICIT ? ltc_lists_forward_rows<false>
                                                       : ltc_lists_forward_rows<true>;
  auto body = [&](long, long chain, long link) {
    const long t = link * chunk;
    rows(p, recurrent, sensory, lstm, row_block(p, element, chain), t, min_of(p.T, t + chunk),
         chunk);
  };
  if (p.T > 0)
    parallel_chains(parallel_threads(), row_blocks(p, element), (p.T + chunk - 1) / chunk, body);
}

static void ltc_lists_forward(const LtcProblem& p) {
  const Carved k([&](Carver& memory) { return make_ltc_lists(p, false, memory); });
  ltc_lists_forward_all(p, k->recurrent, k->sensory, k->lstm);
}

}  // namespace
}  // namespace mlx_ncps
