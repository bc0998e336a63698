// LTC recurrence, forward, dense, any H (MATHS 3): all T steps and U unfolds of ROWS batch rows in
// one threadgroup, so that each synapse streamed from memory serves ROWS gates.
//
// PARTS neighbouring threads share a target; a threadgroup walks over the targets in strides of
// threads / PARTS, the same number of times in each thread. v is double-buffered in threadgroup
// memory as [unit][row]: one barrier per unfold. Row r of a target belongs to its part r % PARTS.
// Rows past the batch repeat the last one and write nothing. Threadgroups are of a multiple of 32
// threads.
//
// With MEMORY a step of the LSTM (MATHS 4) comes ahead of each step, in the same strides; c is read
// where it was written. With RESETS v (and c) start anew before some steps (MATHS 5). One barrier
// each.
//
//   sizes      B, T, U, H
//   flag       SAVE                          : what the gradient needs leaves
//   flag       RESETS                        : the state starts anew before some steps
//   flag       MEMORY                        : an LSTM in front
//   int        ROWS                          : batch rows of a threadgroup
//   int        PARTS                         : threads that share a target: 1, 2 or 4
//   int        UNITS                         : H, rounded up
//   int        HELD                          : synapses of a thread that stay in registers
//   in float   num, den [B, T, H]            : sums over the inputs, with the leak
//   in float   v0 [B, H]                     : potentials before the first step
//   in float   ts [B, T]                     : timespans
//   in float   cm [H]
//   in float   synapse_s2, synapse_m2, synapse_w, synapse_we [H, H]
//   in float   resets [B, T] if RESETS       : not 0 where the state starts anew
//   in float   v_anew [B, H] if RESETS       : from these potentials
//   in float   c_anew [B, H] if RESETS and MEMORY
//   in float   drive [B, T, 4 * H] if MEMORY : z of the LSTM without its share of h
//   in float   c0 [B, H] if MEMORY           : c before the first step
//   in float   recurrent [H, 4 * H] if MEMORY : the LSTM's weights of h
//   out float  states [B, T, H]              : potentials after each step
//   out float  c_states [B, T, H] if MEMORY  : c after each step
//   out float  saved [B, T, U, 2, H] if SAVE : n and d of every unfold
//   out float  gates [B, T, 4 * H] if SAVE and MEMORY : of the LSTM
constexpr int OWN =
    ROWS > PARTS ? ROWS / PARTS : 1;  // rows of a thread; where ROWS < PARTS, or none
#if MEMORY
constexpr int GATES = 4;
#endif
threadgroup float v_buffer[2][UNITS][ROWS];
const uint B = uint(sizes[0]), T = uint(sizes[1]), U = uint(sizes[2]), H = uint(sizes[3]);
const uint lane = thread_position_in_threadgroup.x, part = lane % uint(PARTS);
const uint slot = lane / uint(PARTS), slots = threads_per_threadgroup.x / uint(PARTS);
const uint first = threadgroup_position_in_grid.x * uint(ROWS);
const uint stride = uint(PARTS) * H;  // from a synapse of a thread to its next

uint batch[OWN];  // of its rows
NCPS_UNROLL
for (int q = 0; q < OWN; ++q) {
  const uint row = first + uint(q * PARTS) + part;
  batch[q] = row < B ? row : B - 1u;
}
for (uint j = slot; j < H; j += slots) {
  NCPS_UNROLL
  for (int q = 0; q < OWN; ++q) {
    const uint r = uint(q * PARTS) + part;
    if (r < uint(ROWS)) v_buffer[0][j][r] = v0[batch[q] * H + j];
  }
}
threadgroup_barrier(mem_flags::mem_threadgroup);

const bool here = slot < H;  // HELD: a thread has one target
float s2_held[HELD + (HELD == 0)], m2_held[HELD + (HELD == 0)];
float w_held[HELD + (HELD == 0)], we_held[HELD + (HELD == 0)];
NCPS_UNROLL
for (int q = 0; q < HELD; ++q) {
  const uint at = here ? (part + uint(q * PARTS)) * H + slot : 0u;
  s2_held[q] = synapse_s2[at];
  m2_held[q] = synapse_m2[at];
  w_held[q] = synapse_w[at];
  we_held[q] = synapse_we[at];
}

uint now = 0u;
for (uint t = 0u; t < T; ++t) {
  float k[OWN];
  NCPS_UNROLL
  for (int q = 0; q < OWN; ++q) k[q] = float(ts[batch[q] * T + t]) / float(U);
#if RESETS
  for (uint j = slot; j < H; j += slots) {
    NCPS_UNROLL
    for (int q = 0; q < OWN; ++q) {
      const uint r = uint(q * PARTS) + part;
      if (r < uint(ROWS) && float(resets[batch[q] * T + t]) != 0.0f) {
        v_buffer[now][j][r] = v_anew[batch[q] * H + j];
      }
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
#endif
#if MEMORY
  for (uint base = 0u; base < H; base += slots) {
    const uint j = base + slot;
    const bool live = j < H;
    float z[GATES][ROWS];
    NCPS_UNROLL
    for (int g = 0; g < GATES; ++g) {
      NCPS_UNROLL
      for (int r = 0; r < ROWS; ++r) z[g][r] = 0.0f;
    }
    for (uint i = part; i < H; i += uint(PARTS)) {
      NCPS_UNROLL
      for (int g = 0; g < GATES; ++g) {
        const float w = recurrent[(i * uint(GATES) + uint(g)) * H + (live ? j : 0u)];
        NCPS_UNROLL
        for (int r = 0; r < ROWS; ++r) z[g][r] += w * v_buffer[now][i][r];
      }
    }
    NCPS_UNROLL
    for (int g = 0; g < GATES; ++g) {
      NCPS_SHARE_ROWS(z[g])
    }
    NCPS_UNROLL
    for (int q = 0; q < OWN; ++q) {
      const uint r = uint(q * PARTS) + part;
      if (live && r < uint(ROWS)) {
        const bool real = first + r < B;
        const uint row = batch[q] * T + t;
        NCPS_UNROLL
        for (int g = 0; g < GATES; ++g) z[g][q] += drive[(row * uint(GATES) + uint(g)) * H + j];
        const LstmGates<float> gate_of = lstm_gates(z[0][q], z[1][q], z[2][q], z[3][q]);
        float c = 0.0f;
        if (t == 0u) {
          c = c0[batch[q] * H + j];
        } else if (real) {  // of others another thread may be writing it
          c = c_states[(row - 1u) * H + j];
        }
#if RESETS
        if (float(resets[row]) != 0.0f) c = c_anew[batch[q] * H + j];
#endif
        c = lstm_memory(gate_of, c);
        v_buffer[1u - now][j][r] = lstm_output(c, gate_of.og);
        if (real) {
          c_states[row * H + j] = c;
#if SAVE
          const float each[GATES] = {gate_of.i, gate_of.ig, gate_of.fg, gate_of.og};
          NCPS_UNROLL
          for (int g = 0; g < GATES; ++g) gates[(row * uint(GATES) + uint(g)) * H + j] = each[g];
#endif
        }
      }
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  now = 1u - now;
#endif
  for (uint u = 0u; u < U; ++u) {
    for (uint base = 0u; base < H; base += slots) {
      const uint j = base + slot;
      const bool live = j < H;
      const uint target = live ? j : 0u;
      float n[ROWS], d[ROWS];
      NCPS_UNROLL
      for (int r = 0; r < ROWS; ++r) n[r] = d[r] = 0.0f;
      NCPS_UNROLL
      for (int q = 0; q < HELD; ++q) {
        NCPS_UNROLL
        for (int r = 0; r < ROWS; ++r) {
          const float v = v_buffer[now][part + uint(q * PARTS)][r];
          const float gate = ltc_gate(v, s2_held[q], m2_held[q]);
          n[r] += gate * we_held[q];
          d[r] += gate * w_held[q];
        }
      }
      uint at = (part + uint(HELD * PARTS)) * H + target;
      for (uint i = part + uint(HELD * PARTS); i < H; i += uint(PARTS), at += stride) {
        const float s2 = synapse_s2[at], m2 = synapse_m2[at];
        const float w = synapse_w[at], we = synapse_we[at];
        NCPS_UNROLL
        for (int r = 0; r < ROWS; ++r) {
          const float gate = ltc_gate(v_buffer[now][i][r], s2, m2);
          n[r] += gate * we;
          d[r] += gate * w;
        }
      }
      NCPS_SHARE_ROWS(n)
      NCPS_SHARE_ROWS(d)
      NCPS_UNROLL
      for (int q = 0; q < OWN; ++q) {
        const uint r = uint(q * PARTS) + part;
        if (live && r < uint(ROWS)) {
          const uint row = batch[q] * T + t;
          n[q] += num[row * H + j];
          d[q] += den[row * H + j];
          const float v = ltc_update(float(v_buffer[now][j][r]), n[q], d[q], float(cm[j]), k[q]);
          v_buffer[1u - now][j][r] = v;
          if (first + r < B) {
#if SAVE
            const uint at = 2u * (row * U + u) * H + j;
            saved[at] = n[q];
            saved[at + H] = d[q];
#endif
            if (u == U - 1u) states[row * H + j] = v;
          }
        }
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    now = 1u - now;
  }
}
