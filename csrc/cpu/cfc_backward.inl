// The backward twin of cfc.inl. Per chunk of steps, from the end: first the time loop, which needs
// only the small [rows, units] products that carry dL/dh back; then the weight gradients and dL/dx
// as GEMMs over the whole chunk. Each task owns one slab of weight gradients; slabs are summed in a
// fixed order.
#pragma once

#include "csrc/cpu/cfc.inl"
#include "csrc/cpu/lstm_backward.inl"

namespace mlx_ncps {
namespace {

// One task's weight gradients: stage s [width][in, whole panels] (stage 0: the x part, then the h
// part), biases, w_tau, A.
struct CfcSlab {
  float *dx_weight, *dweight[MAX_CFC_STAGES], *dbias[MAX_CFC_STAGES], *dw_tau, *dA;
};

static CfcSlab cfc_slab(const Cfc& k, Carver& memory) {
  CfcSlab g{};
  g.dx_weight = memory.take(k.width[0] * round_up(k.p.I, NR));
  for (int s = 0; s <= k.p.layers; ++s) {
    g.dweight[s] = memory.take(k.width[s] * round_up(k.depth[s], NR));
    g.dbias[s] = memory.take(k.stride[s]);
  }
  g.dw_tau = memory.take(k.Hn), g.dA = memory.take(k.Hn);
  return g;
}

// What a task adds to from its first step on; the first chunk writes the weights' gradients.
static void clear_sums(const Cfc& k, const CfcSlab& g) {
  for (int s = 0; s <= k.p.layers; ++s) fill(g.dbias[s], k.stride[s], 0.0f);
  fill(g.dw_tau, k.Hn, 0.0f), fill(g.dA, k.Hn, 0.0f);
}

// The weights in the other orientation, for dL/d(input) = dL/d(output) W: panels over the stage's
// inputs.
struct CfcTransposed {
  float *x_panels, *panels[MAX_CFC_STAGES];
};

static CfcTransposed make_transposed(const Cfc& k, const float* zeros, Carver& memory) {
  CfcTransposed w{};
  w.x_panels = memory.take(panel_floats(k.width[0], k.p.I));
  for (int s = 0; s <= k.p.layers; ++s)
    w.panels[s] = memory.take(panel_floats(k.width[s], k.depth[s]));
  if (!memory.base) return w;
  for (int s = 0; s <= k.p.layers; ++s) {
    const auto row = [&](long n) {
      const float* r = weight_row(k, s, n);
      return r ? r + (s == 0 ? k.p.I : 0) : zeros;
    };
    pack_panels(row, k.width[s], k.depth[s], 1, w.panels[s]);
  }
  const auto x_row = [&](long n) {
    const float* r = weight_row(k, 0, n);
    return r ? r : zeros;
  };
  pack_panels(x_row, k.width[0], k.p.I, 1, w.x_panels);
  return w;
}

// dL/d(heads' pre-activations) [heads][head] of one row from dh [Hn]; returns dL/dts.
template <int MODE, int HEAD_ACTIVATION>
static inline float cfc_heads_backward(const Cfc& k, const float* dh, const float* kept, float ts,
                                       float* dz, const CfcSlab& g) {
  const long H = k.p.H, stride = k.head;
  const bool merged = k.p.heads == 3;
  vf dts = vf{};
  for (long q = 0; q < H; q += W) {
    const long live = H - q;
    if constexpr (MODE == NCPS_CFC_PURE) {
      const auto d = cfc_pure_backward(load(dh + q), load_partial(kept + q, live),
                                       load(k.w_tau + q), load(k.A + q), ts);
      store(dz + q, d.df);
      store(g.dw_tau + q, load(g.dw_tau + q) + d.dw_tau), store(g.dA + q, load(g.dA + q) + d.dA);
      dts += d.dts;
    } else {
      const auto d = cfc_blend_backward<MODE, HEAD_ACTIVATION>(
          load(dh + q), load_partial(kept + q, live), load_partial(kept + H + q, live),
          load_partial(kept + 2 * H + q, live));
      store(dz + q, d.df1), store(dz + stride + q, d.df2);
      store(dz + 2 * stride + q, merged ? d.du : d.du * ts);
      if (merged) continue;
      store(dz + 3 * stride + q, d.du);
      dts += d.du * load_partial(kept + 3 * H + q, live);
    }
  }
  return horizontal_sum(dts);
}

static inline float cfc_heads_backward_of(const Cfc& k, const float* dh, const float* kept,
                                          float ts, float* dz, const CfcSlab& g) {
  return with_heads(k.p, [&](auto mode, auto activation) {
    return cfc_heads_backward<mode.value, activation.value>(k, dh, kept, ts, dz, g);
  });
}

// Buffers of one task; dz[s] is [rows][steps][stride[s]].
struct CfcBackwardBuffers {
  float *dh = nullptr, *dz[MAX_CFC_STAGES]{}, *columns = nullptr, *rows = nullptr;
  LstmBackwardRows lstm;
};

static CfcBackwardBuffers make_buffers(const Cfc& k, const LstmSlab& lstm, long b, long rows,
                                       long chunk, Carver& memory) {
  CfcBackwardBuffers f{.lstm = make_lstm_rows(k.lstm, lstm, b, rows, memory)};
  long widest = round_up(k.p.I, NR);
  for (int s = 0; s <= k.p.layers; ++s) {
    f.dz[s] = memory.take(rows * chunk * k.stride[s]);
    if (round_up(k.depth[s], NR) > widest) widest = round_up(k.depth[s], NR);
  }
  f.dh = memory.take(rows * k.Hn);
  f.columns = memory.take(rows * chunk * widest);
  f.rows = memory.take(rows * chunk * widest);
  return f;
}

// dz of all stages at step t, and dh carried to step t - 1.
static void cfc_backward_step(const Cfc& k, const CfcTransposed& w, const CfcSlab& g,
                              const CfcBackwardBuffers& f, long b, long rows, long t, long t0,
                              long steps) {
  stop_if_interrupted();
  const CfcProblem& p = k.p;
  const auto dz = [&](int s) { return f.dz[s] + (t - t0) * k.stride[s]; };
  for (long r = 0; r < rows; ++r) {
    const long at = (b + r) * p.T + t;
    add_to(f.dh + r * k.Hn, p.dh + at * p.H, p.H);
    const float* kept = p.saved + at * p.saved_width + (p.saved_width - p.heads * p.H);
    const float dts = cfc_heads_backward_of(k, f.dh + r * k.Hn, kept, p.ts ? p.ts[at] : 0.0f,
                                            dz(p.layers) + r * steps * k.stride[p.layers], g);
    if (p.dts) p.dts[at] = dts;
  }
  const long before = b * p.T + (t > 0 ? t - 1 : 0);
  const Ahead ahead{rows,
                    {{p.dh + before * p.H, p.T * p.H, p.H},
                     {p.saved + before * p.saved_width, p.T * p.saved_width, p.saved_width}}};
  long kept_at = p.saved_width - p.heads * p.H;
  for (int s = p.layers; s > 0; --s) {
    const long down = s - 1;
    kept_at -= k.width[down];
    gemm(dz(s), steps * k.stride[s], 1, rows, w.panels[s], k.width[s], k.depth[s], dz(down),
         steps * k.stride[down], false, s == p.layers ? &ahead : nullptr);
    for (long r = 0; r < rows; ++r) {
      const long at = (b + r) * p.T + t;
      float* row = dz(down) + r * steps * k.stride[down];
      drop_layer(k, down, at, row);
      multiply_slope(p.activation, row, p.saved + at * p.saved_width + kept_at, k.width[down]);
    }
  }
  gemm(dz(0), steps * k.stride[0], 1, rows, w.panels[0], k.width[0], p.H, f.dh, k.Hn, false,
       p.layers == 0 ? &ahead : nullptr);
  if (p.lstm.on) lstm_backward_step(f.lstm, t, t - t0, f.dh, k.Hn);
  start_anew_backward(p.resets, p.resets.dstate, p.T, p.H, b, rows, t, f.dh, k.Hn);
}

// dweight [width][columns, whole panels] += dz^T in, over all rows and steps of the chunk; in(d):
// row d of the stage's input.  fresh: dweight holds nothing yet.
template <typename Row>
static void add_weight_gradient(const Cfc& k, int s, const float* dz, Row in, long depth,
                                long columns, float* panels, float* dweight, bool fresh) {
  pack_panels(in, depth, columns, 1, panels);
  gemm(dz, 1, k.stride[s], k.width[s], panels, depth, columns, dweight, round_up(columns, NR),
       !fresh);
}

static void cfc_backward_chunk(const Cfc& k, const CfcTransposed& w, const CfcSlab& g,
                               const CfcBackwardBuffers& f, long b, long rows, long t0, long steps,
                               bool fresh) {
  const CfcProblem& p = k.p;
  const long T = p.T, I = p.I, H = p.H, depth = rows * steps;
  const auto at = [&](long d) { return (b + d / steps) * T + t0 + d % steps; };
  const auto x_row = [&](long d) { return p.x + at(d) * I; };
  for (long d = 0; d < depth && p.lstm.on; ++d)
    lstm_recall(k.lstm, b + d / steps, 1, t0 + d % steps, f.rows + d * k.Hn, k.Hn);
  const auto h_row = [&](long d) {
    return p.lstm.on ? f.rows + d * k.Hn
                     : state_read(k.lstm, p.h, p.h0, p.resets.state, b + d / steps, t0 + d % steps);
  };
  long kept_at = 0;
  for (int s = 0; s <= p.layers; ++s) {
    add_column_sums(f.dz[s], depth, k.stride[s], k.width[s], g.dbias[s]);
    if (s == 0) {
      add_weight_gradient(k, 0, f.dz[0], x_row, depth, I, f.columns, g.dx_weight, fresh);
      add_weight_gradient(k, 0, f.dz[0], h_row, depth, H, f.columns, g.dweight[0], fresh);
      continue;
    }
    const long below = k.depth[s];
    for (long d = 0; d < depth; ++d) {
      value_from_kept(p.activation, p.saved + at(d) * p.saved_width + kept_at, below,
                      f.rows + d * below);
      drop_layer(k, s - 1, at(d), f.rows + d * below);
    }
    kept_at += below;
    add_weight_gradient(
        k, s, f.dz[s], [&](long d) { return f.rows + d * below; }, depth, below, f.columns,
        g.dweight[s], fresh);
  }
  const long In = round_up(I, NR);
  gemm(f.dz[0], k.stride[0], 1, depth, w.x_panels, k.width[0], I, f.rows, In, false);
  for (long d = 0; d < depth; ++d) copy(p.dx + at(d) * I, f.rows + d * In, I);
  if (p.lstm.on) lstm_backward_chunk(f.lstm, t0, steps);
}

static void cfc_backward_rows(const Cfc& k, const CfcTransposed& w, const CfcSlab& g,
                              const LstmSlab& lstm, long b, long rows, bool first) {
  const CfcProblem& p = k.p;
  const long chunk = min_of(p.T, CHUNK_ROWS / rows);
  const Slabs buffers([&](Carver& memory) { return make_buffers(k, lstm, b, rows, chunk, memory); },
                      1);
  const CfcBackwardBuffers f = buffers.cleared(0);
  clear_resets(p.resets, p.lstm.dc_anew, p.T, p.H, b, rows);
  for (long end = p.T; end > 0; end -= chunk) {
    const long t0 = end > chunk ? end - chunk : 0, steps = end - t0;
    for (long t = end - 1; t >= t0; --t) cfc_backward_step(k, w, g, f, b, rows, t, t0, steps);
    cfc_backward_chunk(k, w, g, f, b, rows, t0, steps, first && end == p.T);
  }
  if (p.lstm.on) lstm_finish(f.lstm);
  for (long r = 0; r < rows; ++r) copy(p.dh0 + (b + r) * p.H, f.dh + r * k.Hn, p.H);
}

// Part `part` of `parts` of every stage's rows.
template <typename Layout>
static void unpack_cfc_part(const Cfc& k, const Slabs<Layout>& slabs, long part, long parts) {
  const CfcSlab g = slabs.of(0);
  const CfcProblem& p = k.p;
  for (int s = 0; s <= p.layers; ++s) {
    const long fan_in = s == 0 ? p.I + p.H : k.depth[s], first = s == 0 ? p.I : 0;
    for (long n = k.width[s] * part / parts; n < k.width[s] * (part + 1) / parts; ++n) {
      if (!weight_row(k, s, n)) continue;
      const bool head = s == p.layers;
      float* out =
          head ? p.dhead_weight[n / k.head] + n % k.head * fan_in : p.dweight[s] + n * fan_in;
      slabs.sums(g.dx_weight + n * round_up(p.I, NR), out, first);
      slabs.sums(g.dweight[s] + n * round_up(k.depth[s], NR), out + first, fan_in - first);
      (head ? p.dhead_bias[n / k.head][n % k.head] : p.dbias[s][n]) = slabs.sum(g.dbias[s] + n);
    }
  }
}

template <typename Layout>
static void unpack_cfc(const Cfc& k, const Slabs<Layout>& slabs) {
  const CfcSlab g = slabs.of(0);
  const long parts = share_work(slabs.count * slabs.stride / W, MAX_SLABS);
  auto body = [&](long part) { unpack_cfc_part(k, slabs, part, parts); };
  parallel(parts, body);
  for (long j = 0; k.p.mode == NCPS_CFC_PURE && j < k.p.H; ++j) {
    k.p.dw_tau[j] = slabs.sum(g.dw_tau + j);
    k.p.dA[j] = slabs.sum(g.dA + j);
  }
}

static void cfc_backward(const CfcProblem& p) {
  const Carved made([&](Carver& memory) { return make_cfc(p, true, memory); });
  const Cfc& k = made.arrays;
  pack_pure(k);
  long widest = p.I > p.H ? p.I : p.H;
  for (int s = 0; s < p.layers; ++s) widest = p.width[s] > widest ? p.width[s] : widest;
  Scratch zeros(round_up(widest, NR));
  fill(zeros.data, round_up(widest, NR), 0.0f);
  const Carved w([&](Carver& memory) { return make_transposed(k, zeros.data, memory); });
  // The tasks and their slabs depend on the shape alone, so that results do not depend on the
  // number of threads.
  const long rows = even_rows(p.B, p.B < 128 ? CFC_ROWS / 2 : CFC_ROWS,
                              share_work(cfc_operations(k), 2)),
             blocks = (p.B + rows - 1) / rows, tasks = min_of(blocks, MAX_SLABS);
  const Slabs slabs([&](Carver& memory) { return cfc_slab(k, memory); }, tasks);
  const auto lstm = lstm_slabs(k.lstm, tasks);
  auto body = [&](long task) {
    const CfcSlab g = p.T > 0 ? slabs.of(task) : slabs.cleared(task);
    clear_sums(k, g);
    const LstmSlab lstm_sum = lstm.cleared(task);
    const long first = blocks * task / tasks;
    for (long block = first; block < blocks * (task + 1) / tasks; ++block)
      cfc_backward_rows(k, w.arrays, g, lstm_sum, block * rows, min_of(rows, p.B - block * rows),
                        block == first);
  };
  parallel(tasks, body);
  unpack_cfc(k, slabs);
  unpack_lstm(k.lstm, lstm);
}

}  // namespace
}  // namespace mlx_ncps
