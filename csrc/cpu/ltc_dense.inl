// LTC over whole sequences, lanes across neurons (MATHS 3): dense wirings, and small batches of any
// wiring. A task owns ROWS batch rows for all T steps and U unfolds, so that each synapse's
// parameters, once loaded, serve ROWS gates.
#pragma once

#include "csrc/cpu/formulas.inl"
#include "csrc/cpu/lstm.inl"
#include "csrc/cpu/ltc_stages.inl"

namespace mlx_ncps {
namespace {

#if NCPS_VECTOR_BYTES == 64 || defined(__ARM_NEON)
constexpr int LTC_ROWS =
    4;  // 32 vector registers: 2 * ROWS sums, 4 parameters, the gate's temporaries
#else
constexpr int LTC_ROWS = 2;
#endif
// Whether gates are computed one synapse ahead of their sums: a gate is a chain of some 40 cycles,
// which leaves the pipes waiting when nothing else stands beside it. Needs as many registers.
constexpr bool GATES_AHEAD = LTC_ROWS == 4;

// Parameters in blocks of W neurons: [blocks][others][s2 m2 w we][W]. The blocked neurons are
// targets, or with `transposed` sources. A forward drops the sources whose synapses into a block
// are all 0 (a wiring without them): `sources` [blocks][1 + others] holds the number of the others,
// then their indices. A backward drops none: a synapse of weight 0 may have a gradient.
struct SynapseBlocks {
  float* data;
  long others;
  int* sources;
  const float* block(long q) const { return data + q * others * 4 * W; }
  int* sources_of(long q) const { return sources + q * (1 + others); }
};

static SynapseBlocks take_blocks(long lanes, long others, bool drop, Carver& memory) {
  const long blocks = (lanes + W - 1) / W;
  float* data = memory.take(blocks * others * 4 * W);
  return {data, others,
          drop ? reinterpret_cast<int*>(memory.take(blocks * (1 + others))) : nullptr};
}

static void pack_blocks(const SynapseMatrices& m, long sources, long targets, bool transposed,
                        const SynapseBlocks& out) {
  const long lanes = transposed ? sources : targets, others = transposed ? targets : sources;
  const float* const parts[4] = {m.s2, m.m2, m.w, m.we};
  for (long q = 0; q < lanes; q += W) {
    float* to = out.data + q / W * others * 4 * W;
    int* const kept = out.sources ? out.sources_of(q / W) : nullptr;
    if (kept) kept[0] = 0;
    for (long o = 0; o < others; ++o) {
      if (kept) {  // lanes: targets
        long at = o * targets + q;
        const long end = o * targets + min_of(q + W, lanes);
        while (at < end && m.w[at] == 0.0f && m.we[at] == 0.0f) ++at;
        if (at == end) continue;
        kept[++kept[0]] = int(o);
      }
      for (int part = 0; part < 4; ++part, to += W)
        if (transposed)
          for (long lane = 0; lane < W; ++lane)
            to[lane] = q + lane < lanes ? parts[part][(q + lane) * targets + o] : 0.0f;
        else
          store(to, load_partial(parts[part] + o * targets + q, lanes - q));
    }
  }
}

// num += sum_i we_ij s_ij, den += sum_i w_ij s_ij for block q of targets; v: ROWS rows, `stride`
// apart.
template <int ROWS>
static inline void accumulate_synapses(const SynapseBlocks& synapses, long q, const float* v,
                                       long stride, vf* num, vf* den) {
  const float* block = synapses.block(q);
  const int *source = synapses.sources_of(q) + 1, *const end = source + source[-1];
  vf n[ROWS], d[ROWS], gate[ROWS], next[ROWS];
  const auto gates = [&](const float* at, int i) {
    const vf s2 = load(at), m2 = load(at + W);
    for (int r = 0; r < ROWS; ++r) next[r] = ltc_gate(splat(v[r * stride + i]), s2, m2);
  };
  for (int r = 0; r < ROWS; ++r) n[r] = num[r], d[r] = den[r];
  if (GATES_AHEAD && source < end) gates(block, *source);
  for (; source < end; ++source, block += 4 * W) {
    if (!GATES_AHEAD) gates(block, *source);
    for (int r = 0; r < ROWS; ++r) gate[r] = next[r];
    if (GATES_AHEAD && source + 1 < end) gates(block + 4 * W, source[1]);
    const vf w = load(block + 2 * W), we = load(block + 3 * W);
    for (int r = 0; r < ROWS; ++r) d[r] += gate[r] * w, n[r] += gate[r] * we;
  }
  for (int r = 0; r < ROWS; ++r) num[r] = n[r], den[r] = d[r];
}

// The gradients of the parameters that one task sums up, in this kernel and in that of the lists.
struct LtcSlab {
  float *recurrent, *sensory, *neurons;  // neurons: [dcm dleak_num dleak_den]
};

struct LtcDense {
  LtcProblem p;
  long Hp;                                                        // H rounded up to whole vectors
  SynapseBlocks recurrent{}, sensory{};                           // lanes: targets
  SynapseBlocks recurrent_by_source{};                            // lanes: sources; backward only
  float *cm = nullptr, *leak_num = nullptr, *leak_den = nullptr;  // [Hp]; padding neurons stay 0
  Lstm lstm;
};

static LtcDense make_ltc_dense(const LtcProblem& p, bool backward, Carver& memory) {
  const long Hp = round_up(p.H, W);
  LtcDense k{.p = p,
             .Hp = Hp,
             .sensory = take_blocks(p.H, p.I, !backward, memory),
             .lstm = make_lstm(p, p.v0, p.v, backward, memory)};
  (backward ? k.recurrent_by_source : k.recurrent) = take_blocks(p.H, p.H, !backward, memory);
  k.cm = memory.take(Hp);
  k.leak_num = memory.take(Hp);
  k.leak_den = memory.take(Hp);
  if (!memory.base) return k;
  pack_blocks(p.recurrent, p.H, p.H, backward, backward ? k.recurrent_by_source : k.recurrent);
  pack_blocks(p.sensory, p.I, p.H, false, k.sensory);
  for (long j = 0; j < Hp; ++j) {
    k.cm[j] = j < p.H ? p.cm[j] : 1.0f;
    k.leak_num[j] = j < p.H ? p.leak_num[j] : 0.0f;
    k.leak_den[j] = j < p.H ? p.leak_den[j] : 0.0f;
  }
  return k;
}

// One evaluation of ROWS rows: v -> v_next, both [ROWS][Hp]; n0, d0 [ROWS][Hp] are the sums that do
// not change within the step. STAGED: by a solver of stages, else the semi-implicit one.
template <int ROWS, bool STAGED>
static inline void unfold(const LtcDense& k, const float* v, float* v_next, const float* n0,
                          const float* d0, const float* rate, float* saved, long saved_stride,
                          const LtcStage& stage, const StageSums& sums) {
  const long H = k.p.H;
  for (long q = 0; q < k.Hp; q += W) {
    vf n[ROWS], d[ROWS];
    for (int r = 0; r < ROWS; ++r) n[r] = load(n0 + r * k.Hp + q), d[r] = load(d0 + r * k.Hp + q);
    accumulate_synapses<ROWS>(k.recurrent, q / W, v, k.Hp, n, d);
    for (int r = 0; r < ROWS; ++r) {
      const long at = r * k.Hp + q;
      if constexpr (STAGED)
        store(v_next + at, next_point(stage, load(v + at), n[r], d[r], load(k.cm + q),
                                      splat(rate[r]), sums.v + at, sums.sum + at));
      else
        store(v_next + at, ltc_update(load(v + at), n[r], d[r], load(k.cm + q), splat(rate[r])));
      if (!saved) continue;
      store_partial(saved + r * saved_stride + q, n[r], H - q);
      store_partial(saved + r * saved_stride + H + q, d[r], H - q);
    }
  }
}

// What the rows of a task are computed in; [rows][Hp].
struct DenseRows {
  float *v, *v_next, *n0, *d0;
  StageSums stages;
  float* lstm;
};

static DenseRows take_dense_rows(const LtcDense& k, long rows, Carver& memory) {
  const long row = rows * k.Hp;
  return {.v = memory.take(row),
          .v_next = memory.take(row),
          .n0 = memory.take(row),
          .d0 = memory.take(row),
          .stages = take_stage_sums(k.p, row, memory),
          .lstm = take_lstm(k.lstm, rows, memory)};
}

// Steps t0 .. end, at most `chunk`, of ROWS rows. The state before them is read where the step
// before wrote it, so that any thread may go on with the rows.
template <bool STAGED, int ROWS>
static void ltc_dense_forward_rows(const LtcDense& k, long b, long t0, long end, long chunk) {
  const LtcProblem& p = k.p;
  const long H = p.H, Hp = k.Hp, T = p.T, U = p.U, E = STAGED ? evaluations_of(p) : U;
  const Carved own([&](Carver& memory) { return take_dense_rows(k, ROWS, memory); });
  float *v = own->v, *v_next = own->v_next, *n0 = own->n0, *d0 = own->d0;
  const LstmRows lstm{k.lstm, b, ROWS, chunk, own->lstm};
  fill(v, ROWS * Hp, 0.0f), fill(v_next, ROWS * Hp, 0.0f);
  for (int r = 0; r < ROWS; ++r) copy(v + r * Hp, state_before(k.lstm, p.v, p.v0, b + r, t0), H);
  for (long t = t0; t < end; ++t) {
    stop_if_interrupted();
    float rate[ROWS];
    for (int r = 0; r < ROWS; ++r) rate[r] = p.ts[(b + r) * T + t] / float(U);
    start_anew(p.resets, p.resets.state, T, H, b, ROWS, t, v, Hp);
    if (p.lstm.on) lstm_step(lstm, t, v, Hp);
    for (long q = 0; q < Hp; q += W) {
      vf n[ROWS], d[ROWS];
      for (int r = 0; r < ROWS; ++r) n[r] = load(k.leak_num + q), d[r] = load(k.leak_den + q);
      accumulate_synapses<ROWS>(k.sensory, q / W, p.x + (b * T + t) * p.I, T * p.I, n, d);
      for (int r = 0; r < ROWS; ++r) store(n0 + r * Hp + q, n[r]), store(d0 + r * Hp + q, d[r]);
    }
    for (long e = 0; e < E; ++e) {
      unfold<ROWS, STAGED>(k, v, v_next, n0, d0, rate,
                           p.saved ? p.saved + ((b * T + t) * E + e) * 2 * H : nullptr,
                           T * E * 2 * H, STAGED ? stage_of(p, e) : LtcStage{}, own->stages);
      float* swap = v;
      v = v_next, v_next = swap;
    }
    for (int r = 0; r < ROWS; ++r) copy(p.v + ((b + r) * T + t) * H, v + r * Hp, H);
  }
}

// Vector operations of a forward: 12 for a gate and its two sums.
static long ltc_operations(const LtcDense& k) {
  const auto gates = [&](const SynapseBlocks& s) {
    long count = 0;
    for (long q = 0; q < k.Hp / W; ++q) count += s.sources ? *s.sources_of(q) : s.others;
    return count;
  };
  return 12 * k.p.B * k.p.T *
         (evaluations_of(k.p) * gates(k.recurrent.data ? k.recurrent : k.recurrent_by_source) +
          gates(k.sensory));
}

template <bool STAGED, int ROWS = LTC_ROWS>
static void ltc_dense_forward_task(const LtcDense& k, long rows, long b, long t0, long end,
                                   long chunk) {
  if (rows == ROWS) return ltc_dense_forward_rows<STAGED, ROWS>(k, b, t0, end, chunk);
  if constexpr (ROWS > 1) ltc_dense_forward_task<STAGED, ROWS - 1>(k, rows, b, t0, end, chunk);
}

static void ltc_dense_forward_all(const LtcDense& k) {
  const long B = k.p.B, T = k.p.T, threads = share_work(ltc_operations(k), parallel_threads()),
             rows = even_rows(B, LTC_ROWS, threads), chunk = lstm_chunk(k.lstm, rows);
  auto body = [&](long, long chain, long link) {
    const long b = chain * rows, t = link * chunk;
    const auto task = k.p.solver == NCPS_LTC_SEMI_IMPLICIT ? ltc_dense_forward_task<false>
                                                           : ltc_dense_forward_task<true>;
    task(k, min_of(rows, B - b), b, t, min_of(T, t + chunk), chunk);
  };
  if (T > 0) parallel_chains(threads, (B + rows - 1) / rows, (T + chunk - 1) / chunk, body);
}

static void ltc_dense_forward(const LtcProblem& p) {
  const Carved k([&](Carver& memory) { return make_ltc_dense(p, false, memory); });
  ltc_dense_forward_all(k.arrays);
}

}  // namespace
}  // namespace mlx_ncps
