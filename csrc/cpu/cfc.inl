// CfC over whole sequences (MATHS 1), a block of a few batch rows and a chunk of steps at a time.
// Every step multiplies its x (few rows: those of a chunk at once) and h, then runs the other
// backbone layers, the heads side by side and the closed form.
#pragma once

#include "csrc/cpu/activation.inl"
#include "csrc/cpu/lstm.inl"

namespace mlx_ncps {
namespace {

// Packed weights. Stage s reads `depth[s]` values (stage 0: x and h) and writes `width[s]` columns,
// `stride[s]` floats apart.
struct Cfc {
  CfcProblem p;
  long Hn;    // a row of states, whole panels
  long head;  // columns of one head, whole vectors
  long depth[MAX_CFC_STAGES]{}, width[MAX_CFC_STAGES]{}, stride[MAX_CFC_STAGES]{};
  float *x_panels = nullptr, *h_panels = nullptr, *panels[MAX_CFC_STAGES]{};
  float *bias[MAX_CFC_STAGES]{}, *w_tau = nullptr, *A = nullptr;
  Lstm lstm;
};

// What the n-th output column of stage s is made of: a row of a weight matrix and its bias; null
// for padding columns.
static inline const float* weight_row(const Cfc& k, int s, long n) {
  const long fan_in = s == 0 ? k.p.I + k.p.H : k.depth[s];
  if (s < k.p.layers) return k.p.weight[s] + n * fan_in;
  return n % k.head < k.p.H ? k.p.head_weight[n / k.head] + n % k.head * fan_in : nullptr;
}
static inline float bias_of(const Cfc& k, int s, long n) {
  if (n >= k.width[s]) return 0.0f;
  if (s < k.p.layers) return k.p.bias[s][n];
  return n % k.head < k.p.H ? k.p.head_bias[n / k.head][n % k.head] : 0.0f;
}

// Panels of columns first .. first + depth of stage s's weights: panel element (d, n) =
// weight_row(n)[first + d].
static void pack_stage(const Cfc& k, int s, long first, long depth, float* out) {
  for (long n = 0; n < k.stride[s]; n += W) {
    const float* rows[W];
    for (long j = 0; j < W; ++j) rows[j] = n + j < k.width[s] ? weight_row(k, s, n + j) : nullptr;
    float* column = out + n / NR * NR * depth + n % NR;
    for (long d = 0; d < depth; d += W) {
      vf tile[W];
      for (long j = 0; j < W; ++j)
        tile[j] = rows[j] ? load_partial(rows[j] + first + d, depth - d) : vf{};
      transpose(tile);
      for (long i = 0; i < min_of(W, depth - d); ++i) store(column + (d + i) * NR, tile[i]);
    }
  }
}

static Cfc make_cfc(const CfcProblem& p, bool backward, Carver& memory) {
  Cfc k{.p = p,
        .Hn = round_up(p.H, NR),
        .head = round_up(p.H, W),
        .lstm = make_lstm(p, p.h0, p.h, backward, memory)};
  for (int s = 0; s <= p.layers; ++s) {
    k.depth[s] = s == 0 ? p.H : p.width[s - 1];
    k.width[s] = s < p.layers ? p.width[s] : p.heads * k.head;
    k.stride[s] = round_up(k.width[s], NR);
    (s == 0 ? k.h_panels : k.panels[s]) = memory.take(k.stride[s] * k.depth[s]);
    if (s == 0) k.x_panels = memory.take(k.stride[s] * p.I);
    k.bias[s] = memory.take(k.stride[s]);
  }
  k.w_tau = memory.take(k.Hn), k.A = memory.take(k.Hn);
  return k;
}

static void pack_pure(const Cfc& k) {
  const bool pure = k.p.mode == NCPS_CFC_PURE;
  for (long j = 0; j < k.Hn; ++j) {
    k.w_tau[j] = pure && j < k.p.H ? k.p.w_tau[j] : 0.0f;
    k.A[j] = pure && j < k.p.H ? k.p.A[j] : 0.0f;
  }
}

static void pack_cfc(const Cfc& k) {
  const CfcProblem& p = k.p;
  for (int s = 0; s <= p.layers; ++s) {
    if (s == 0) pack_stage(k, 0, 0, p.I, k.x_panels);
    pack_stage(k, s, s == 0 ? p.I : 0, k.depth[s], s == 0 ? k.h_panels : k.panels[s]);
    for (long n = 0; n < k.stride[s]; ++n) k.bias[s][n] = bias_of(k, s, n);
  }
  pack_pure(k);
}

// z *= the factors of backbone layer `layer` at `step` of the B T steps, where it is dropped.
static inline void drop_layer(const Cfc& k, int layer, long step, float* z) {
  const CfcProblem& p = k.p;
  if (!p.dropout || layer < p.first_dropped) return;
  long first = 0;
  for (int l = p.first_dropped; l < layer; ++l) first += p.width[l];
  drop(z, p.dropout + step * p.dropped_width + first, p.width[layer]);
}

// f(mode, activation of the heads) with both as compile-time constants.
template <typename F>
static inline auto with_heads(const CfcProblem& p, F f) {
  const auto of_mode = [&](auto mode) {
#define NCPS_HEADS(NAME, name, from_value, backbone, heads) \
  if constexpr (heads)                                      \
    if (p.head_activation == NCPS_##NAME) return f(mode, Constant<NCPS_##NAME>{});
    NCPS_ACTIVATIONS(NCPS_HEADS)
#undef NCPS_HEADS
    unknown_choice("head_activation", p.head_activation);
  };
  if (p.mode == NCPS_CFC_PURE) return f(Constant<NCPS_CFC_PURE>{}, Constant<NCPS_IDENTITY>{});
  if (p.mode == NCPS_CFC_NO_GATE) return of_mode(Constant<NCPS_CFC_NO_GATE>{});
  if (p.mode == NCPS_CFC_DEFAULT) return of_mode(Constant<NCPS_CFC_DEFAULT>{});
  unknown_choice("mode", p.mode);
}

// h' of one row from its heads' pre-activations z [heads][head]; bias: null where z already holds
// it. Keeps F1, F2, g, a (or f).
template <int MODE, int HEAD_ACTIVATION>
static inline void cfc_heads(const Cfc& k, const float* z, const float* bias, float ts, float* h,
                             float* kept) {
  const long H = k.p.H, stride = k.head;
  const bool merged = k.p.heads == 3;
  const auto head = [&](long at) { return bias ? load(z + at) + load(bias + at) : load(z + at); };
  for (long q = 0; q < H; q += W) {
    if constexpr (MODE == NCPS_CFC_PURE) {
      const vf f = head(q);
      store(h + q, cfc_pure(f, load(k.w_tau + q), load(k.A + q), ts));
      if (kept) store_partial(kept + q, f, H - q);
    } else {
      const vf F1 = ncps_activation<HEAD_ACTIVATION>(head(q)),
               F2 = ncps_activation<HEAD_ACTIVATION>(head(stride + q)), a = head(2 * stride + q);
      const vf g = ncps_sigmoid(merged ? a : a * ts + head(3 * stride + q));
      store(h + q, cfc_blend<MODE>(F1, F2, g));
      if (!kept) continue;
      store_partial(kept + q, F1, H - q);
      store_partial(kept + H + q, F2, H - q);
      store_partial(kept + 2 * H + q, g, H - q);
      if (!merged) store_partial(kept + 3 * H + q, a, H - q);
    }
  }
}

static inline void cfc_heads_of(const Cfc& k, const float* z, const float* bias, float ts, float* h,
                                float* kept) {
  with_heads(k.p, [&](auto mode, auto activation) {
    cfc_heads<mode.value, activation.value>(k, z, bias, ts, h, kept);
  });
}

// Rows of a block at most. More gain nothing in the GEMM, which reads a panel from L2 once for all
// of them, and leave fewer blocks to the threads.
constexpr long CFC_ROWS = 16;

// Rows from which each step multiplies its own x: they fill a tile, and its sums are still in L1
// when the recurrent half is added. Fewer rows fill tiles with the steps of a chunk instead.
constexpr long ROWS_OF_STEP = 6;

// What a thread works in while it runs some steps of some rows; `drive` steps of x are multiplied
// at once.
struct CfcBuffers {
  long drive, lstm_chunk;
  float *x, *h, *first, *stages, *lstm;
};

static CfcBuffers make_cfc_buffers(const Cfc& k, long rows, Carver& memory) {
  const long most = min_of(k.p.T, CHUNK_ROWS / rows), drive = rows < ROWS_OF_STEP ? most : 1;
  long width = 0;
  for (int s = 1; s <= k.p.layers; ++s) width += k.stride[s];
  return {.drive = drive,
          .lstm_chunk = most,
          .x = memory.take(rows * k.p.I),
          .h = memory.take(rows * k.Hn),
          .first = memory.take(rows * drive * k.stride[0]),
          .stages = memory.take(rows * width),
          .lstm = take_lstm(k.lstm, rows, memory)};
}

// The input half of the first stage, of steps t .. t + steps: first [rows][steps][stride].
static void cfc_drive(const Cfc& k, const CfcBuffers& f, long b, long rows, long t, long steps) {
  const long I = k.p.I;
  const auto x = [&](long r) { return k.p.x + ((b + r) * k.p.T + t) * I; };
  if (steps == 1) {
    for (long r = 0; r < rows; ++r) copy(f.x + r * I, x(r), I);
    return gemm_from(k.bias[0], 0, f.x, I, 1, rows, k.x_panels, I, k.width[0], f.first,
                     k.stride[0]);
  }
  for (long r = 0; r < rows; ++r)
    gemm_from(k.bias[0], 0, x(r), I, 1, steps, k.x_panels, I, k.width[0],
              f.first + r * steps * k.stride[0], k.stride[0]);
}

// One step of a few rows; z: the first stage's input half, rows z_row apart.
static void cfc_forward_step(const Cfc& k, const CfcBuffers& f, const LstmRows& lstm, long b,
                             long rows, long t, float* z, long z_row) {
  stop_if_interrupted();
  const CfcProblem& p = k.p;
  long kept_at = 0;
  const long after = b * p.T + min_of(t + 1, p.T - 1);
  const Ahead ahead{
      rows,
      {{p.x + after * p.I, p.T * p.I, p.I},
       {p.h + after * p.H, p.T * p.H, p.H},
       {p.saved + after * p.saved_width, p.T * p.saved_width, p.saved ? p.saved_width : 0}}};
  start_anew(p.resets, p.resets.state, p.T, p.H, b, rows, t, f.h, k.Hn);
  if (p.lstm.on) lstm_step(lstm, t, f.h, k.Hn);
  gemm(f.h, k.Hn, 1, rows, k.h_panels, p.H, k.width[0], z, z_row, true,
       p.layers == 0 ? &ahead : nullptr);
  float* next = f.stages;
  for (int s = 0; s < p.layers; ++s) {
    for (long r = 0; r < rows; ++r) {
      const long at = (b + r) * p.T + t;
      activate(p.activation, z + r * z_row, s == 0 ? nullptr : k.bias[s], k.width[s],
               p.saved ? p.saved + at * p.saved_width + kept_at : nullptr);
      drop_layer(k, s, at, z + r * z_row);
    }
    kept_at += k.width[s];
    gemm(z, z_row, 1, rows, k.panels[s + 1], k.depth[s + 1], k.width[s + 1], next, k.stride[s + 1],
         false, s + 1 == p.layers ? &ahead : nullptr);
    z = next, z_row = k.stride[s + 1];
    next += rows * k.stride[s + 1];
  }
  for (long r = 0; r < rows; ++r) {
    const long at = (b + r) * p.T + t;
    cfc_heads_of(k, z + r * z_row, p.layers == 0 ? nullptr : k.bias[p.layers],
                 p.ts ? p.ts[at] : 0.0f, f.h + r * k.Hn,
                 p.saved ? p.saved + at * p.saved_width + kept_at : nullptr);
    copy(p.h + at * p.H, f.h + r * k.Hn, p.H);
  }
}

// Steps t0 .. end of a few rows. The state before them is read where the step before wrote it, so
// that any thread may go on with the rows.
static void cfc_forward_rows(const Cfc& k, const CfcBuffers& f, long b, long rows, long t0,
                             long end) {
  const LstmRows lstm{k.lstm, b, rows, f.lstm_chunk, f.lstm};
  fill(f.h, rows * k.Hn, 0.0f);
  for (long r = 0; r < rows; ++r)
    copy(f.h + r * k.Hn, state_before(k.lstm, k.p.h, k.p.h0, b + r, t0), k.p.H);
  for (long t = t0; t < end; t += f.drive) {
    const long steps = min_of(f.drive, end - t);
    cfc_drive(k, f, b, rows, t, steps);
    for (long s = 0; s < steps; ++s)
      cfc_forward_step(k, f, lstm, b, rows, t + s, f.first + s * k.stride[0], steps * k.stride[0]);
  }
}

// Vector operations of a forward's products.
static long cfc_operations(const Cfc& k) {
  long weights = k.stride[0] * k.p.I;
  for (int s = 0; s <= k.p.layers; ++s) weights += k.stride[s] * k.depth[s];
  return k.p.B * k.p.T * weights / W;
}

static void cfc_forward_all(const Cfc& k) {
  const long B = k.p.B, T = k.p.T, threads = share_work(cfc_operations(k), parallel_threads()),
             rows = even_rows(B, CFC_ROWS, threads), steps = CHUNK_ROWS / rows;
  const Slabs buffers([&](Carver& memory) { return make_cfc_buffers(k, rows, memory); }, threads);
  auto body = [&](long thread, long chain, long link) {
    const long b = chain * rows, t = link * steps;
    cfc_forward_rows(k, buffers.of(thread), b, min_of(rows, B - b), t, min_of(T, t + steps));
  };
  parallel_chains(threads, (B + rows - 1) / rows, (T + steps - 1) / steps, body);
}

static void cfc_forward(const CfcProblem& p) {
  const Carved k([&](Carver& memory) { return make_cfc(p, false, memory); });
  pack_cfc(k.arrays);
  cfc_forward_all(k.arrays);
}

}  // namespace
}  // namespace mlx_ncps
