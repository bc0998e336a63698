// The LSTM of mixed memory (MATHS 4) as one more stage ahead of a cell, within the task that owns a
// few batch rows for all T steps: the input half of z is one GEMM per chunk of steps, the recurrent
// half and the gates run per step. z = [i, ig, fg, og], each H wide; arrays are rows of neurons in
// every kernel, so the kernels with the batch in lanes transpose h* at each step.
#pragma once

#include "csrc/cpu/formulas.inl"
#include "csrc/cpu/gemm.inl"
#include "csrc/cpu/resets.inl"

namespace mlx_ncps {
namespace {

// Packed weights, and the arrays of the cell that the LSTM reads and writes too.
struct Lstm {
  LstmProblem p;
  long T, I, H, Z;  // Z: 4H, whole panels
  const float *x, *h0, *h;
  float* dx;
  // forward: depth I and H, Z columns; [Z]
  float *x_panels = nullptr, *h_panels = nullptr, *bias = nullptr;
  // backward: depth 4H, I and H columns
  float *x_back = nullptr, *h_back = nullptr;
  ResetsProblem resets;
};

template <typename Problem>
static Lstm make_lstm(const Problem& p, const float* h0, const float* h, bool backward,
                      Carver& memory) {
  Lstm k{.p = p.lstm,
         .T = p.T,
         .I = p.lstm.x ? p.lstm.inputs : p.I,
         .H = p.H,
         .Z = round_up(4 * p.H, NR),
         .x = p.lstm.x ? p.lstm.x : p.x,
         .h0 = h0,
         .h = h,
         .dx = p.lstm.x ? p.lstm.dx : p.dx,
         .resets = p.resets};
  if (!k.p.on) return k;
  if (backward) {
    k.x_back = memory.take(panel_floats(4 * k.H, k.I));
    k.h_back = memory.take(panel_floats(4 * k.H, k.H));
  } else {
    k.x_panels = memory.take(panel_floats(k.I, 4 * k.H));
    k.h_panels = memory.take(panel_floats(k.H, 4 * k.H));
    k.bias = memory.take(k.Z);
  }
  if (!memory.base) return k;
  const auto row_of = [](const float* weights, long stride) {
    return [=](long n) { return weights + n * stride; };
  };
  if (backward) {
    pack_panels(row_of(k.p.input_weight, k.I), 4 * k.H, k.I, 1, k.x_back);
    pack_panels(row_of(k.p.recurrent_weight, k.H), 4 * k.H, k.H, 1, k.h_back);
  } else {
    pack_panels(row_of(k.p.input_weight, 1), k.I, 4 * k.H, k.I, k.x_panels);
    pack_panels(row_of(k.p.recurrent_weight, 1), k.H, 4 * k.H, k.H, k.h_panels);
    fill(k.bias, k.Z, 0.0f);
    copy(k.bias, k.p.bias, 4 * k.H);
  }
  return k;
}

static inline long lstm_chunk(const Lstm& k, long rows) { return min_of(k.T, CHUNK_ROWS / rows); }

// Row b of a state before step t, wherever it starts anew: of [B, T, H] and of its first value
// [B, H].
static inline const float* state_before(const Lstm& k, const float* states, const float* first,
                                        long b, long t) {
  return t > 0 ? states + (b * k.T + t - 1) * k.H : first + b * k.H;
}
// And of what a step reads, `anew` [B, H] where it starts anew.
static inline const float* state_read(const Lstm& k, const float* states, const float* first,
                                      const float* anew, long b, long t) {
  return starts_anew(k.resets, k.T, b, t) ? anew + b * k.H : state_before(k, states, first, b, t);
}

// The rows of one task.
struct LstmRows {
  const Lstm& k;
  long b, rows, chunk;
  float* z;  // [chunk][rows][Z]; with resets then h of rows of which some start anew, [rows][H]
};

// Their z.
static inline float* take_lstm(const Lstm& k, long rows, Carver& memory) {
  const long z = lstm_chunk(k, rows) * rows * k.Z, h = k.resets.at ? rows * k.H : 0;
  return memory.take(k.p.on ? z + h : 0);
}

// The half of z that reads x, of all steps of a chunk.
static void lstm_drive(const LstmRows& m, long t0, long steps) {
  const Lstm& k = m.k;
  for (long r = 0; r < m.rows; ++r)
    gemm_from(k.bias, 0, k.x + ((m.b + r) * k.T + t0) * k.I, k.I, 1, steps, k.x_panels, k.I,
              4 * k.H, m.z + r * k.Z, m.rows * k.Z);
}

// h* of step t into out: rows of whole vectors, `stride` apart; writes c and the gates. h of the
// step before is read where the cell wrote it.
static void lstm_step(const LstmRows& m, long t, float* out, long stride) {
  const Lstm& k = m.k;
  const long H = k.H, slot = t % m.chunk;
  if (slot == 0) lstm_drive(m, t, min_of(m.chunk, k.T - t));
  float* z = m.z + slot * m.rows * k.Z;
  const float* before = state_before(k, k.h, k.h0, m.b, t);
  long apart = t > 0 ? k.T * H : H;
  if (any_starts_anew(k.resets, k.T, m.b, m.rows, t)) {
    float* h = m.z + m.chunk * m.rows * k.Z;
    for (long r = 0; r < m.rows; ++r)
      copy(h + r * H, state_read(k, k.h, k.h0, k.resets.state, m.b + r, t), H);
    before = h, apart = H;
  }
  gemm(before, apart, 1, m.rows, k.h_panels, H, 4 * H, z, k.Z, true);
  for (long r = 0; r < m.rows; ++r, z += k.Z) {
    const long at = (m.b + r) * k.T + t;
    const float* c = state_read(k, k.p.c, k.p.c0, k.p.c_anew, m.b + r, t);
    float* gates = k.p.gates ? k.p.gates + at * 4 * H : nullptr;
    for (long q = 0; q < H; q += W) {
      const long live = H - q;
      const LstmGates<vf> g =
          lstm_gates(load_partial(z + q, live), load_partial(z + H + q, live),
                     load_partial(z + 2 * H + q, live), load_partial(z + 3 * H + q, live));
      const vf next = lstm_memory(g, load_partial(c + q, live));
      store_partial(k.p.c + at * H + q, next, live);
      store(out + r * stride + q, lstm_output(next, g.og));
      if (!gates) continue;
      store_partial(gates + q, g.i, live), store_partial(gates + H + q, g.ig, live);
      store_partial(gates + 2 * H + q, g.fg, live), store_partial(gates + 3 * H + q, g.og, live);
    }
  }
}

}  // namespace
}  // namespace mlx_ncps
