// LTC recurrence, backward, dense, any H (MATHS 3), the twin of ltc_streamed_forward.metal: carries
// dL/dv from the end over T and U, and gives each unfold's dL/dv' divided by its denominator, from
// which ltc_neuron_backward.metal and ltc_synapse_backward.metal make the parameters' gradients.
//
// PARTS neighbouring threads share a source; a threadgroup walks over the sources in strides of
// threads / PARTS. dn and dd of all targets and dL/dv stand in threadgroup memory as [unit][row]:
// two barriers per unfold. Row r of a source belongs to its part r % PARTS, dL/dv too. Rows past
// the batch repeat the last one and write nothing. Threadgroups are of a multiple of 32 threads.
// The synapses come transposed, [targets, sources], so that neighbouring sources are neighbours.
//
// With MEMORY the LSTM's step follows (MATHS 4), two barriers more: dz of all neurons stand in
// threadgroup memory, two of the four where dn and dd were. With RESETS a state that starts anew
// keeps its gradient (MATHS 5). Sums over steps stand in the outputs, where a thread alone reads
// and writes what is its own.
//
//   sizes      B, T, U, H
//   flag       RESETS                : the state starts anew before some steps
//   flag       MEMORY                : an LSTM in front
//   int        ROWS                  : batch rows of a threadgroup
//   int        PARTS                 : threads that share a source: 1, 2 or 4
//   int        UNITS                 : H, rounded up
//   int        HELD                  : synapses of a thread that stay in registers
//   in float   dstates [B, T, H]     : dL/dv of each step's potentials
//   in float   saved [B, T, U, 2, H] : n and d of every unfold
//   in float   states [B, T, H]      : potentials after each step
//   in float   ts [B, T]             : timespans
//   in float   cm [H]
//   in float   before [B, T, U, H]   : potentials before each unfold
//   in float   synapse_s2, synapse_m2, synapse_w, synapse_we [H, H]
//   in float   resets [B, T] if RESETS : not 0 where the state starts anew
//   in float   c_anew [B, H] if RESETS and MEMORY : c from which it does
//   in float   dc_states [B, T, H] if MEMORY : dL/dc of each step's c
//   in float   c_states [B, T, H] if MEMORY : c after each step
//   in float   gates [B, T, 4 * H] if MEMORY : of the LSTM
//   in float   c0 [B, H] if MEMORY   : c before the first step
//   in float   recurrent [4 * H, H] if MEMORY : the LSTM's weights of h
//   out float  dv0 [B, H]            : dL/dv before the first step
//   out float  grad [B, T, U, H]     : dL/dv' of each unfold over its denominator
//   out float  dv_anew [B, H] if RESETS : of the potentials from which a state starts anew
//   out float  dc_anew [B, H] if RESETS and MEMORY
//   out float  dz [B, T, 4 * H] if MEMORY : of the LSTM
//   out float  dc0 [B, H] if MEMORY
constexpr int OWN =
    ROWS > PARTS ? ROWS / PARTS : 1;  // rows of a thread; where ROWS < PARTS, or none
threadgroup float dn_buffer[UNITS][ROWS];
threadgroup float dd_buffer[UNITS][ROWS];
threadgroup float dv_buffer[UNITS][ROWS];
#if MEMORY
constexpr int GATES = 4;
threadgroup float dfg_buffer[UNITS][ROWS];
threadgroup float dog_buffer[UNITS][ROWS];
#endif
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
for (uint i = slot; i < H; i += slots) {
  for (uint r = part; r < uint(ROWS); r += uint(PARTS)) {
    dv_buffer[i][r] = 0.0f;
#if RESETS || MEMORY
    if (first + r < B) {
#if RESETS
      dv_anew[(first + r) * H + i] = 0.0f;
#endif
#if MEMORY
      dc0[(first + r) * H + i] = 0.0f;  // dL/dc of the step that is next
#if RESETS
      dc_anew[(first + r) * H + i] = 0.0f;
#endif
#endif
    }
#endif
  }
}
const bool here = slot < H;  // HELD: a thread has one source
float s2_held[HELD + (HELD == 0)], m2_held[HELD + (HELD == 0)];
float ws_held[HELD + (HELD == 0)], wes_held[HELD + (HELD == 0)];
NCPS_UNROLL
for (int q = 0; q < HELD; ++q) {
  const uint at = here ? (part + uint(q * PARTS)) * H + slot : 0u;
  s2_held[q] = synapse_s2[at];
  m2_held[q] = synapse_m2[at];
  ws_held[q] = s2_held[q] * synapse_w[at];
  wes_held[q] = s2_held[q] * synapse_we[at];
}

for (uint t = T; t-- > 0u;) {
  float k[OWN];
  NCPS_UNROLL
  for (int q = 0; q < OWN; ++q) k[q] = float(ts[batch[q] * T + t]) / float(U);
  for (uint u = U; u-- > 0u;) {
    const bool last = u == U - 1u;
    for (uint i = slot; i < H; i += slots) {
      NCPS_UNROLL
      for (int q = 0; q < OWN; ++q) {
        const uint r = uint(q * PARTS) + part;
        if (r < uint(ROWS)) {
          const uint row = batch[q] * T + t, at = row * U + u;
          float v_next = states[row * H + i];
          if (!last) v_next = before[(at + 1u) * H + i];
          float dv = dv_buffer[i][r];
          if (last) dv += dstates[row * H + i];
          const float d = saved[(2u * at + 1u) * H + i], cm_i = cm[i];
          const float g = ltc_update_backward(dv, d, cm_i, k[q]);
          const LtcSumsGradient<float> sums = ltc_sums_backward(g, v_next, k[q]);
          dn_buffer[i][r] = sums.dn;
          dd_buffer[i][r] = sums.dd;
          dv_buffer[i][r] = g * cm_i;
          if (first + r < B) grad[at * H + i] = g;
        }
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint base = 0u; base < H; base += slots) {
      const uint i = base + slot;
      const bool live = i < H;
      const uint source = live ? i : 0u;
      float v[ROWS], sum[ROWS];
      NCPS_UNROLL
      for (int r = 0; r < ROWS; ++r) {
        const uint b = first + uint(r) < B ? first + uint(r) : B - 1u;
        v[r] = before[((b * T + t) * U + u) * H + source];
        sum[r] = 0.0f;
      }
      NCPS_UNROLL
      for (int q = 0; q < HELD; ++q) {
        const uint j = part + uint(q * PARTS);
        NCPS_UNROLL
        for (int r = 0; r < ROWS; ++r) {
          const float gate = ltc_gate(v[r], s2_held[q], m2_held[q]);
          const float dn = dn_buffer[j][r], dd = dd_buffer[j][r];
          sum[r] = ltc_source_backward(sum[r], gate, ws_held[q], wes_held[q], dn, dd);
        }
      }
      uint at = (part + uint(HELD * PARTS)) * H + source;
      for (uint j = part + uint(HELD * PARTS); j < H; j += uint(PARTS), at += stride) {
        const float s2 = synapse_s2[at], m2 = synapse_m2[at];
        const float ws = s2 * synapse_w[at], wes = s2 * synapse_we[at];  // for all rows
        NCPS_UNROLL
        for (int r = 0; r < ROWS; ++r) {
          const float gate = ltc_gate(v[r], s2, m2), dn = dn_buffer[j][r], dd = dd_buffer[j][r];
          sum[r] = ltc_source_backward(sum[r], gate, ws, wes, dn, dd);
        }
      }
      NCPS_SHARE_ROWS(sum)
      NCPS_UNROLL
      for (int q = 0; q < OWN; ++q) {
        const uint r = uint(q * PARTS) + part;
        if (live && r < uint(ROWS)) dv_buffer[i][r] = ltc_dv(float(dv_buffer[i][r]), sum[q]);
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
#if MEMORY
  for (uint i = slot; i < H; i += slots) {
    NCPS_UNROLL
    for (int q = 0; q < OWN; ++q) {
      const uint r = uint(q * PARTS) + part;
      if (r < uint(ROWS)) {
        const bool real = first + r < B;
        const uint row = batch[q] * T + t, gate_at = row * uint(GATES) * H + i;
        float c_before = 0.0f;
        if (t == 0u) {
          c_before = c0[batch[q] * H + i];
        } else {
          c_before = c_states[(row - 1u) * H + i];
        }
        float dc = dc_states[row * H + i];
        if (real) dc += dc0[batch[q] * H + i];
#if RESETS
        const bool anew = float(resets[row]) != 0.0f;
        if (anew) c_before = c_anew[batch[q] * H + i];
#endif
        const LstmGates<float> gate_of = {gates[gate_at], gates[gate_at + H],
                                          gates[gate_at + 2u * H], gates[gate_at + 3u * H]};
        const LstmGradient<float> from = lstm_backward(
            gate_of, c_before, float(c_states[row * H + i]), float(dv_buffer[i][r]), dc);
        dn_buffer[i][r] = from.i;
        dd_buffer[i][r] = from.ig;
        dfg_buffer[i][r] = from.fg;
        dog_buffer[i][r] = from.og;
        if (real) {
          const float each[GATES] = {from.i, from.ig, from.fg, from.og};
          NCPS_UNROLL
          for (int g = 0; g < GATES; ++g) dz[gate_at + uint(g) * H] = each[g];
          dc = from.c;
#if RESETS
          if (anew) {
            dc_anew[batch[q] * H + i] += dc;
            dc = 0.0f;
          }
#endif
          dc0[batch[q] * H + i] = dc;
        }
      }
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (uint base = 0u; base < H; base += slots) {
    const uint i = base + slot;
    const bool live = i < H;
    float sum[ROWS];
    NCPS_UNROLL
    for (int r = 0; r < ROWS; ++r) sum[r] = 0.0f;
    for (uint j = part; j < H; j += uint(PARTS)) {
      const uint at = j * H + (live ? i : 0u);
      const float w_i = recurrent[at], w_ig = recurrent[at + H * H];
      const float w_fg = recurrent[at + 2u * H * H], w_og = recurrent[at + 3u * H * H];
      NCPS_UNROLL
      for (int r = 0; r < ROWS; ++r) {
        sum[r] += w_i * dn_buffer[j][r];
        sum[r] += w_ig * dd_buffer[j][r];
        sum[r] += w_fg * dfg_buffer[j][r];
        sum[r] += w_og * dog_buffer[j][r];
      }
    }
    NCPS_SHARE_ROWS(sum)
    NCPS_UNROLL
    for (int q = 0; q < OWN; ++q) {
      const uint r = uint(q * PARTS) + part;
      if (live && r < uint(ROWS)) dv_buffer[i][r] = sum[q];
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
#endif
#if RESETS
  for (uint i = slot; i < H; i += slots) {
    NCPS_UNROLL
    for (int q = 0; q < OWN; ++q) {
      const uint r = uint(q * PARTS) + part;
      if (r < uint(ROWS) && float(resets[batch[q] * T + t]) != 0.0f) {
        if (first + r < B) dv_anew[batch[q] * H + i] += dv_buffer[i][r];
        dv_buffer[i][r] = 0.0f;
      }
    }
  }
#endif
}
for (uint i = slot; i < H; i += slots) {
  for (uint r = part; r < uint(ROWS); r += uint(PARTS)) {
    if (first + r < B) dv0[(first + r) * H + i] = dv_buffer[i][r];
  }
}
