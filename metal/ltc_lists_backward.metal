// LTC recurrence, backward, for sparse wirings (MATHS 3), the twin of ltc_lists_forward.metal:
// carries dL/dv from the end over T and U, and gives each unfold's dL/dv' divided by its
// denominator, from which ltc_neuron_backward.metal and ltc_lists_gradient.metal make the
// parameters' gradients.
//
// As in the forward, but a slice is 32 *sources*, one per lane, with their outgoing synapses. dn
// and dd of all targets and dL/dv stand in threadgroup memory as [unit][row]: two SIMD barriers per
// unfold, none of the threadgroup. A group past the batch leaves at once; rows past it repeat the
// last one and write nothing.
//
// With MEMORY the LSTM's step follows (MATHS 4), a neuron in each lane and two SIMD barriers more:
// dz of all neurons stand in threadgroup memory, two of the four where dn and dd were. With RESETS
// a state that starts anew keeps its gradient (MATHS 5). Sums over steps stand in the outputs,
// where a lane alone reads and writes what is its own.
//
//   sizes      B, T, U, H, slices
//   flag       RESETS                : the state starts anew before some steps
//   flag       MEMORY                : an LSTM in front
//   int        SIMDS                 : SIMD groups of a threadgroup
//   int        ROWS                  : batch rows of a SIMD group
//   int        UNITS                 : H, rounded up
//   in float   dstates [B, T, H]     : dL/dv of each step's potentials
//   in float   saved [B, T, U, 2, H] : n and d of every unfold
//   in float   states [B, T, H]      : potentials after each step
//   in float   ts [B, T]             : timespans
//   in float   cm [H]
//   in float   before [B, T, U, H]   : potentials before each unfold
//   in float   synapse_s2, synapse_m2, synapse_w, synapse_we [entries]
//   in float   resets [B, T] if RESETS : not 0 where the state starts anew
//   in float   c_anew [B, H] if RESETS and MEMORY : c from which it does
//   in float   dc_states [B, T, H] if MEMORY : dL/dc of each step's c
//   in float   c_states [B, T, H] if MEMORY : c after each step
//   in float   gates [B, T, 4 * H] if MEMORY : of the LSTM
//   in float   c0 [B, H] if MEMORY   : c before the first step
//   in float   recurrent [4 * H, H] if MEMORY : the LSTM's weights of h
//   in int     neurons [32 * slices] : of the slices
//   in int     begins [slices + 1]   : the first entry of each slice, over 32
//   in int     targets [entries]     : of the entries
//   out float  dv0 [B, H]            : dL/dv before the first step
//   out float  grad [B, T, U, H]     : dL/dv' of each unfold over its denominator
//   out float  dv_anew [B, H] if RESETS : of the potentials from which a state starts anew
//   out float  dc_anew [B, H] if RESETS and MEMORY
//   out float  dz [B, T, 4 * H] if MEMORY : of the LSTM
//   out float  dc0 [B, H] if MEMORY
threadgroup float dn_buffer[SIMDS][UNITS][ROWS];
threadgroup float dd_buffer[SIMDS][UNITS][ROWS];
threadgroup float dv_buffer[SIMDS][UNITS][ROWS];
#if MEMORY
constexpr int GATES = 4;
threadgroup float dfg_buffer[SIMDS][UNITS][ROWS];
threadgroup float dog_buffer[SIMDS][UNITS][ROWS];
#endif
const uint B = uint(sizes[0]), T = uint(sizes[1]), U = uint(sizes[2]), H = uint(sizes[3]);
const uint slices = uint(sizes[4]);
const uint lane = thread_position_in_threadgroup.x % 32u;
const uint group = thread_position_in_threadgroup.x / 32u;
const uint first = (threadgroup_position_in_grid.x * uint(SIMDS) + group) * uint(ROWS);
if (first >= B) return;

uint batch[ROWS];
NCPS_UNROLL
for (int r = 0; r < ROWS; ++r) batch[r] = first + uint(r) < B ? first + uint(r) : B - 1u;
for (uint slice = 0u; slice < slices; ++slice) {
  const int neuron = neurons[32u * slice + lane];
  if (neuron >= 0) {
    NCPS_UNROLL
    for (int r = 0; r < ROWS; ++r) dv_buffer[group][neuron][r] = 0.0f;
  }
}
#if RESETS || MEMORY
for (uint i = lane; i < H; i += 32u) {
  NCPS_UNROLL
  for (int r = 0; r < ROWS; ++r) {
#if RESETS
    dv_anew[batch[r] * H + i] = 0.0f;
#endif
#if MEMORY
    dc0[batch[r] * H + i] = 0.0f;  // dL/dc of the step that is next
#if RESETS
    dc_anew[batch[r] * H + i] = 0.0f;
#endif
#endif
  }
}
#endif
for (uint t = T; t-- > 0u;) {
  float k[ROWS];
  NCPS_UNROLL
  for (int r = 0; r < ROWS; ++r) k[r] = float(ts[batch[r] * T + t]) / float(U);
  for (uint u = U; u-- > 0u;) {
    const bool last = u == U - 1u;
    for (uint slice = 0u; slice < slices; ++slice) {
      const int neuron = neurons[32u * slice + lane];
      if (neuron >= 0) {
        const uint i = uint(neuron);
        NCPS_UNROLL
        for (int r = 0; r < ROWS; ++r) {
          const uint row = batch[r] * T + t, at = row * U + u;
          float v_next = states[row * H + i];
          if (!last) v_next = before[(at + 1u) * H + i];
          float dv = dv_buffer[group][i][r];
          if (last) dv += dstates[row * H + i];
          const float d = saved[(2u * at + 1u) * H + i], cm_i = cm[i];
          const float g = ltc_update_backward(dv, d, cm_i, k[r]);
          const LtcSumsGradient<float> sums = ltc_sums_backward(g, v_next, k[r]);
          dn_buffer[group][i][r] = sums.dn;
          dd_buffer[group][i][r] = sums.dd;
          dv_buffer[group][i][r] = g * cm_i;
          if (first + uint(r) < B) grad[at * H + i] = g;
        }
      }
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
    for (uint slice = 0u; slice < slices; ++slice) {
      const int neuron = neurons[32u * slice + lane];
      const uint i = neuron >= 0 ? uint(neuron) : 0u;
      float v[ROWS], sum[ROWS];
      NCPS_UNROLL
      for (int r = 0; r < ROWS; ++r) {
        v[r] = before[((batch[r] * T + t) * U + u) * H + i];
        sum[r] = 0.0f;
      }
      for (uint e = uint(begins[slice]); e < uint(begins[slice + 1u]); ++e) {
        const uint entry = 32u * e + lane, target = uint(targets[entry]);
        const float s2 = synapse_s2[entry], m2 = synapse_m2[entry];
        const float w = synapse_w[entry], we = synapse_we[entry];
        NCPS_UNROLL
        for (int r = 0; r < ROWS; ++r) {
          const float dn = dn_buffer[group][target][r];
          const float dd = dd_buffer[group][target][r];
          const float dz = ltc_gate_backward(ltc_gate(v[r], s2, m2), w, we, dn, dd);
          sum[r] = ltc_source_backward(sum[r], dz, s2);
        }
      }
      if (neuron >= 0) {
        NCPS_UNROLL
        for (int r = 0; r < ROWS; ++r) {
          dv_buffer[group][i][r] = ltc_dv(float(dv_buffer[group][i][r]), sum[r]);
        }
      }
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
  }
#if MEMORY
  for (uint i = lane; i < H; i += 32u) {
    NCPS_UNROLL
    for (int r = 0; r < ROWS; ++r) {
      const bool real = first + uint(r) < B;
      const uint row = batch[r] * T + t, gate_at = row * uint(GATES) * H + i;
      float c_before = 0.0f;
      if (t == 0u) {
        c_before = c0[batch[r] * H + i];
      } else {
        c_before = c_states[(row - 1u) * H + i];
      }
      float dc = float(dc_states[row * H + i]) + dc0[batch[r] * H + i];
#if RESETS
      const bool anew = float(resets[row]) != 0.0f;
      if (anew) c_before = c_anew[batch[r] * H + i];
#endif
      const LstmGates<float> gate_of = {gates[gate_at], gates[gate_at + H], gates[gate_at + 2u * H],
                                        gates[gate_at + 3u * H]};
      const LstmGradient<float> from = lstm_backward(
          gate_of, c_before, float(c_states[row * H + i]), float(dv_buffer[group][i][r]), dc);
      dn_buffer[group][i][r] = from.i;
      dd_buffer[group][i][r] = from.ig;
      dfg_buffer[group][i][r] = from.fg;
      dog_buffer[group][i][r] = from.og;
      if (real) {
        const float each[GATES] = {from.i, from.ig, from.fg, from.og};
        NCPS_UNROLL
        for (int g = 0; g < GATES; ++g) dz[gate_at + uint(g) * H] = each[g];
        dc = from.c;
#if RESETS
        if (anew) {
          dc_anew[batch[r] * H + i] += dc;
          dc = 0.0f;
        }
#endif
        dc0[batch[r] * H + i] = dc;
      }
    }
  }
  simdgroup_barrier(mem_flags::mem_threadgroup);
  for (uint i = lane; i < H; i += 32u) {
    float sum[ROWS];
    NCPS_UNROLL
    for (int r = 0; r < ROWS; ++r) sum[r] = 0.0f;
    for (uint j = 0u; j < H; ++j) {
      const uint at = j * H + i;
      const float w_i = recurrent[at], w_ig = recurrent[at + H * H];
      const float w_fg = recurrent[at + 2u * H * H], w_og = recurrent[at + 3u * H * H];
      NCPS_UNROLL
      for (int r = 0; r < ROWS; ++r) {
        sum[r] += w_i * dn_buffer[group][j][r];
        sum[r] += w_ig * dd_buffer[group][j][r];
        sum[r] += w_fg * dfg_buffer[group][j][r];
        sum[r] += w_og * dog_buffer[group][j][r];
      }
    }
    NCPS_UNROLL
    for (int r = 0; r < ROWS; ++r) dv_buffer[group][i][r] = sum[r];
  }
  simdgroup_barrier(mem_flags::mem_threadgroup);
#endif
#if RESETS
  for (uint i = lane; i < H; i += 32u) {
    NCPS_UNROLL
    for (int r = 0; r < ROWS; ++r) {
      if (float(resets[batch[r] * T + t]) != 0.0f) {
        if (first + uint(r) < B) dv_anew[batch[r] * H + i] += dv_buffer[group][i][r];
        dv_buffer[group][i][r] = 0.0f;
      }
    }
  }
  simdgroup_barrier(mem_flags::mem_threadgroup);
#endif
}
for (uint slice = 0u; slice < slices; ++slice) {
  const int neuron = neurons[32u * slice + lane];
  if (neuron >= 0) {
    NCPS_UNROLL
    for (int r = 0; r < ROWS; ++r) {
      if (first + uint(r) < B) {
        dv0[batch[r] * H + uint(neuron)] = dv_buffer[group][neuron][r];
      }
    }
  }
}
