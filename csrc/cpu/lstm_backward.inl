// The backward twin of lstm.inl: per step from dL/dh* to dL/dh of the step before, per chunk the
// weight gradients and the LSTM's share of dL/dx as GEMMs. Slabs of weight gradients as in
// cfc_backward.inl.
#pragma once

#include "csrc/cpu/lstm.inl"

namespace mlx_ncps {
namespace {

// h* of step t from the gates and c, bit for bit the forward's.
static void lstm_recall(const Lstm& k, long b, long rows, long t, float* out, long stride) {
  for (long r = 0; r < rows; ++r)
    for (long q = 0; q < k.H; q += W) {
      const long at = (b + r) * k.T + t, live = k.H - q;
      store(out + r * stride + q,
            lstm_output(load_partial(k.p.c + at * k.H + q, live),
                        load_partial(k.p.gates + (at * 4 + 3) * k.H + q, live)));
    }
}

// One task's weight gradients: [4H][inputs, whole panels].
struct LstmSlab {
  float *input_weight, *recurrent_weight, *bias;
};

static LstmSlab lstm_slab(const Lstm& k, Carver& memory) {
  if (!k.p.on) return {};
  LstmSlab g{};
  g.input_weight = memory.take(4 * k.H * round_up(k.I, NR));
  g.recurrent_weight = memory.take(4 * k.H * round_up(k.H, NR));
  g.bias = memory.take(4 * k.H);
  return g;
}

// Of all tasks.
static auto lstm_slabs(const Lstm& k, long tasks) {
  return Slabs([&k](Carver& memory) { return lstm_slab(k, memory); }, tasks);
}

// Their sums: the gradients of the LSTM's parameters.
template <typename Layout>
static void unpack_lstm(const Lstm& k, const Slabs<Layout>& slabs) {
  if (!k.p.on) return;
  const auto sum = [&](const float* from, float* to, long columns, long padded) {
    for (long n = 0; n < 4 * k.H; ++n)
      for (long c = 0; c < columns; ++c) to[n * columns + c] = slabs.sum(from + n * padded + c);
  };
  const LstmSlab first = slabs.of(0);
  sum(first.input_weight, k.p.dinput_weight, k.I, round_up(k.I, NR));
  sum(first.recurrent_weight, k.p.drecurrent_weight, k.H, round_up(k.H, NR));
  sum(first.bias, k.p.dbias, 1, 1);
}

// The rows of one task. dz [chunk][rows][Z]; dc and dh [rows][Hn]: carried to the step before.
struct LstmBackwardRows {
  const Lstm& k;
  LstmSlab g;
  long b, rows, chunk, Hn;
  float *dz = nullptr, *dc = nullptr, *dh = nullptr, *columns = nullptr, *products = nullptr;
};

static LstmBackwardRows make_lstm_rows(const Lstm& k, const LstmSlab& g, long b, long rows,
                                       Carver& memory) {
  const long chunk = lstm_chunk(k, rows), Hn = round_up(k.H, NR), In = round_up(k.I, NR);
  LstmBackwardRows m{.k = k, .g = g, .b = b, .rows = rows, .chunk = chunk, .Hn = Hn};
  if (!k.p.on) return m;
  m.dz = memory.take(chunk * rows * k.Z);
  m.dc = memory.take(rows * Hn);
  m.dh = memory.take(rows * Hn);
  m.columns = memory.take(chunk * rows * (In > Hn ? In : Hn));
  m.products = memory.take(chunk * rows * In);
  if (memory.base) fill(m.dc, rows * Hn, 0.0f);
  return m;
}

// dz of one row from dh* and the dc that the step after left, which becomes that of this step.
static void lstm_gates_backward(const Lstm& k, long b, long t, const float* dh, float* dc,
                                float* dz) {
  const long H = k.H, at = b * k.T + t;
  const float *gates = k.p.gates + at * 4 * H,
              *before = state_read(k, k.p.c, k.p.c0, k.p.c_anew, b, t);
  for (long q = 0; q < H; q += W) {
    const long live = H - q;
    const auto gate = [&](long n) { return load_partial(gates + n * H + q, live); };
    const LstmGradient<vf> g = lstm_backward(
        LstmGates<vf>{gate(0), gate(1), gate(2), gate(3)}, load_partial(before + q, live),
        load_partial(k.p.c + at * H + q, live), load_partial(dh + q, live),
        load(dc + q) + load_partial(k.p.dc + at * H + q, live));
    store_partial(dz + q, g.i, live), store_partial(dz + H + q, g.ig, live);
    store_partial(dz + 2 * H + q, g.fg, live), store_partial(dz + 3 * H + q, g.og, live);
    store(dc + q, g.c);
  }
}

// dh of rows `stride` apart: dL/dh* of step t in, dL/dh of step t - 1 out. slot: t's place in the
// chunk.
static void lstm_backward_step(const LstmBackwardRows& m, long t, long slot, float* dh,
                               long stride) {
  const Lstm& k = m.k;
  float* dz = m.dz + slot * m.rows * k.Z;
  for (long r = 0; r < m.rows; ++r)
    lstm_gates_backward(k, m.b + r, t, dh + r * stride, m.dc + r * m.Hn, dz + r * k.Z);
  gemm(dz, k.Z, 1, m.rows, k.h_back, 4 * k.H, k.H, m.dh, m.Hn, false);
  for (long r = 0; r < m.rows; ++r) copy(dh + r * stride, m.dh + r * m.Hn, k.H);
  start_anew_backward(k.resets, k.p.dc_anew, k.T, k.H, m.b, m.rows, t, m.dc, m.Hn);
}

// After the cell has written dx of these steps, to which the LSTM's is added where both read one x.
static void lstm_backward_chunk(const LstmBackwardRows& m, long t0, long steps) {
  const Lstm& k = m.k;
  const long depth = steps * m.rows, In = round_up(k.I, NR);
  const auto row = [&](long d) { return m.b + d % m.rows; };
  const auto time = [&](long d) { return t0 + d / m.rows; };
  const auto x_row = [&](long d) { return k.x + (row(d) * k.T + time(d)) * k.I; };
  const auto h_row = [&](long d) {
    return state_read(k, k.h, k.h0, k.resets.state, row(d), time(d));
  };
  pack_panels(x_row, depth, k.I, 1, m.columns);
  gemm(m.dz, 1, k.Z, 4 * k.H, m.columns, depth, k.I, m.g.input_weight, In, true);
  pack_panels(h_row, depth, k.H, 1, m.columns);
  gemm(m.dz, 1, k.Z, 4 * k.H, m.columns, depth, k.H, m.g.recurrent_weight, m.Hn, true);
  gemm(m.dz, k.Z, 1, depth, k.x_back, 4 * k.H, k.I, m.products, In, false);
  add_column_sums(m.dz, depth, k.Z, 4 * k.H, m.g.bias);
  for (long d = 0; d < depth; ++d) {
    float* dx = k.dx + (row(d) * k.T + time(d)) * k.I;
    k.p.x ? copy(dx, m.products + d * In, k.I) : add_to(dx, m.products + d * In, k.I);
  }
}

// Both, where dx of step t is written already; chunks start at multiples of their length.
static void lstm_backward_after_dx(const LstmBackwardRows& m, long t, float* dh, long stride) {
  const long slot = t % m.chunk;
  lstm_backward_step(m, t, slot, dh, stride);
  if (slot == 0) lstm_backward_chunk(m, t, min_of(m.chunk, m.k.T - t));
}

// After step 0.
static void lstm_finish(const LstmBackwardRows& m) {
  for (long r = 0; r < m.rows; ++r) copy(m.k.p.dc0 + (m.b + r) * m.k.H, m.dc + r * m.Hn, m.k.H);
}

}  // namespace
}  // namespace mlx_ncps
