// LTC recurrence, forward, for sparse wirings (MATHS 3): all T steps and U unfolds of ROWS batch
// rows in one SIMD group, which visits the synapses of the lists alone; each synapse streamed from
// memory serves ROWS gates.
//
// A slice is 32 targets, one per lane, `neurons[32 slice + lane]`, or -1; sorted by their number of
// synapses, so that the lanes of a slice end together. Entry e of a slice, begins[slice] <= e <
// begins[slice + 1], holds a synapse of each lane at 32 e + lane; padding has w = we = 0. v is
// double-buffered in threadgroup memory as [unit][row]: one SIMD barrier per unfold, none of the
// threadgroup, whose SIMDS groups own ROWS rows each. A group past the batch leaves at once; rows
// past it repeat the last one and write nothing.
//
// With MEMORY a step of the LSTM (MATHS 4) comes ahead of each step, a neuron in each lane; c is
// read where it was written. With RESETS v (and c) start anew before some steps (MATHS 5). One SIMD
// barrier each.
//
//   sizes      B, T, U, H, slices
//   flag       SAVE                          : what the gradient needs leaves
//   flag       RESETS                        : the state starts anew before some steps
//   flag       MEMORY                        : an LSTM in front
//   int        SIMDS                         : SIMD groups of a threadgroup
//   int        ROWS                          : batch rows of a SIMD group
//   int        UNITS                         : H, rounded up
//   in float   num, den [B, T, H]            : sums over the inputs, with the leak
//   in float   v0 [B, H]                     : potentials before the first step
//   in float   ts [B, T]                     : timespans
//   in float   cm [H]
//   in float   synapse_s2, synapse_m2, synapse_w, synapse_we [entries]
//   in float   resets [B, T] if RESETS       : not 0 where the state starts anew
//   in float   v_anew [B, H] if RESETS       : from these potentials
//   in float   c_anew [B, H] if RESETS and MEMORY
//   in float   drive [B, T, 4 * H] if MEMORY : z of the LSTM without its share of h
//   in float   c0 [B, H] if MEMORY           : c before the first step
//   in float   recurrent [H, 4 * H] if MEMORY : the LSTM's weights of h
//   in int     neurons [32 * slices]         : of the slices
//   in int     begins [slices + 1]           : the first entry of each slice, over 32
//   in int     sources [entries]             : of the entries
//   out float  states [B, T, H]              : potentials after each step
//   out float  c_states [B, T, H] if MEMORY  : c after each step
//   out float  saved [B, T, U, 2, H] if SAVE : n and d of every unfold
//   out float  gates [B, T, 4 * H] if SAVE and MEMORY : of the LSTM
#if MEMORY
constexpr int GATES = 4;
#endif
threadgroup float v_buffer[SIMDS][2][UNITS][ROWS];
const uint B = uint(sizes[0]), T = uint(sizes[1]), U = uint(sizes[2]), H = uint(sizes[3]);
const uint slices = uint(sizes[4]);
const uint lane = thread_position_in_threadgroup.x % 32u;
const uint group = thread_position_in_threadgroup.x / 32u;
const uint first = (threadgroup_position_in_grid.x * uint(SIMDS) + group) * uint(ROWS);
if (first >= B) return;

uint batch[ROWS];
NCPS_UNROLL
for (int r = 0; r < ROWS; ++r) batch[r] = first + uint(r) < B ? first + uint(r) : B - 1u;
for (uint j = lane; j < H; j += 32u) {
  NCPS_UNROLL
  for (int r = 0; r < ROWS; ++r) {
    v_buffer[group][0][j][r] = v0[batch[r] * H + j];
  }
}
simdgroup_barrier(mem_flags::mem_threadgroup);
uint now = 0u;
for (uint t = 0u; t < T; ++t) {
  float k[ROWS];
  NCPS_UNROLL
  for (int r = 0; r < ROWS; ++r) k[r] = float(ts[batch[r] * T + t]) / float(U);
#if RESETS
  for (uint j = lane; j < H; j += 32u) {
    NCPS_UNROLL
    for (int r = 0; r < ROWS; ++r) {
      if (float(resets[batch[r] * T + t]) != 0.0f) {
        v_buffer[group][now][j][r] = v_anew[batch[r] * H + j];
      }
    }
  }
  simdgroup_barrier(mem_flags::mem_threadgroup);
#endif
#if MEMORY
  for (uint j = lane; j < H; j += 32u) {
    float z[GATES][ROWS];
    NCPS_UNROLL
    for (int g = 0; g < GATES; ++g) {
      NCPS_UNROLL
      for (int r = 0; r < ROWS; ++r) {
        z[g][r] = drive[((batch[r] * T + t) * uint(GATES) + uint(g)) * H + j];
      }
    }
    for (uint i = 0u; i < H; ++i) {
      NCPS_UNROLL
      for (int g = 0; g < GATES; ++g) {
        const float w = recurrent[(i * uint(GATES) + uint(g)) * H + j];
        NCPS_UNROLL
        for (int r = 0; r < ROWS; ++r) z[g][r] += w * v_buffer[group][now][i][r];
      }
    }
    NCPS_UNROLL
    for (int r = 0; r < ROWS; ++r) {
      const bool real = first + uint(r) < B;
      const uint row = batch[r] * T + t;
      const LstmGates<float> gate_of = lstm_gates(z[0][r], z[1][r], z[2][r], z[3][r]);
      float c = 0.0f;
      if (t == 0u) {
        c = c0[batch[r] * H + j];
      } else {
        c = c_states[(row - 1u) * H + j];  // of a lane's own neuron, whichever row
      }
#if RESETS
      if (float(resets[row]) != 0.0f) c = c_anew[batch[r] * H + j];
#endif
      c = lstm_memory(gate_of, c);
      v_buffer[group][1u - now][j][r] = lstm_output(c, gate_of.og);
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
  simdgroup_barrier(mem_flags::mem_threadgroup);
  now = 1u - now;
#endif
  for (uint u = 0u; u < U; ++u) {
    for (uint slice = 0u; slice < slices; ++slice) {
      float n[ROWS], d[ROWS];
      NCPS_UNROLL
      for (int r = 0; r < ROWS; ++r) n[r] = d[r] = 0.0f;
      for (uint e = uint(begins[slice]); e < uint(begins[slice + 1u]); ++e) {
        const uint at = 32u * e + lane, i = uint(sources[at]);
        const float s2 = synapse_s2[at], m2 = synapse_m2[at];
        const float w = synapse_w[at], we = synapse_we[at];
        NCPS_UNROLL
        for (int r = 0; r < ROWS; ++r) {
          const float gate = ltc_gate(v_buffer[group][now][i][r], s2, m2);
          n[r] += gate * we;
          d[r] += gate * w;
        }
      }
      const int neuron = neurons[32u * slice + lane];
      if (neuron >= 0) {
        const uint j = uint(neuron);
        NCPS_UNROLL
        for (int r = 0; r < ROWS; ++r) {
          const uint row = batch[r] * T + t;
          n[r] += num[row * H + j];
          d[r] += den[row * H + j];
          const float v =
              ltc_update(float(v_buffer[group][now][j][r]), n[r], d[r], float(cm[j]), k[r]);
          v_buffer[group][1u - now][j][r] = v;
          if (first + uint(r) < B) {
#if SAVE
            const uint at = 2u * (row * U + u) * H + j;
            saved[at] = n[r];
            saved[at + H] = d[r];
#endif
            if (u == U - 1u) states[row * H + j] = v;
          }
        }
      }
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
    now = 1u - now;
  }
}
