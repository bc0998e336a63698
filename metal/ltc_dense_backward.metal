// LTC recurrence, backward, with the synapses in registers (MATHS 3), the twin of
// ltc_dense_forward.metal, dense or LISTS: walks T and U from the end.
//
// PARTS threads share a *source* i; each keeps its PER outgoing synapses and their gradients in
// registers, over all batch rows of its threadgroup: rows b = group, group + groups, .. The
// gradients leave as one slab per threadgroup, summed afterwards in a fixed order. dn and dd of all
// targets are double-buffered in threadgroup memory: one barrier per unfold. What an unfold reads
// from memory is loaded while the unfold after it in time is computed: unfolds of a row are
// neighbours. Threadgroups are of a multiple of 32 threads, >= PARTS H.
//
// With MEMORY the LSTM's step follows (MATHS 4): dz of all neurons stand in threadgroup memory,
// from which the PARTS threads of a neuron make dL/dh; its weights' gradients are products of dz,
// taken outside. With RESETS a state that starts anew keeps its gradient (MATHS 5).
//
//   sizes      B, T, U, H, groups
//   flag       LISTS                 : the synapses of a wiring's lists alone
//   flag       RESETS                : the state starts anew before some steps
//   flag       MEMORY                : an LSTM in front
//   int        PER                   : synapses of a thread
//   int        PARTS                 : threads that share a source: 2, 4 or 8
//   int        UNITS                 : H; without LISTS rounded up, PER PARTS
//   in float   dstates [B, T, H]     : dL/dv of each step's potentials
//   in float   saved [B, T, U, 2, H] : n and d of every unfold
//   in float   states [B, T, H]      : potentials after each step
//   in float   ts [B, T]             : timespans
//   in float   cm [H]
//   in float   before [B, T, U, H]   : potentials before each unfold
//   in float   synapse_s2, synapse_m2, synapse_w, synapse_we [H, H] if not LISTS
//   in float   synapse_s2, synapse_m2, synapse_w, synapse_we [H, PER * PARTS] if LISTS
//   in float   resets [B, T] if RESETS : not 0 where the state starts anew
//   in float   c_anew [B, H] if RESETS and MEMORY : c from which it does
//   in float   dc_states [B, T, H] if MEMORY : dL/dc of each step's c
//   in float   c_states [B, T, H] if MEMORY : c after each step
//   in float   gates [B, T, 4 * H] if MEMORY : of the LSTM
//   in float   c0 [B, H] if MEMORY   : c before the first step
//   in float   recurrent [4 * H, H] if MEMORY : the LSTM's weights of h
//   in int     targets [H, PER * PARTS] if LISTS : of the sources' synapses
//   out float  dv0 [B, H]            : dL/dv before the first step
//   out float  dnum, dden [B, T, H]
//   out float  dts [B, T, H]         : shares of the sum over neurons
//   out float  dcm [groups, H]
//   out float  slabs [groups, 4, H, PER * PARTS] : of s2, m2, w, we, padding too
//   out float  dv_anew [B, H] if RESETS : of the potentials from which a state starts anew
//   out float  dc_anew [B, H] if RESETS and MEMORY
//   out float  dz [B, T, 4 * H] if MEMORY : of the LSTM
//   out float  dc0 [B, H] if MEMORY
#if LISTS
threadgroup float dn_buffer[2][UNITS], dd_buffer[2][UNITS];
#define NCPS_OF(buffer, j) buffer[now][j]
#else
threadgroup float dn_buffer[2][PARTS][PER], dd_buffer[2][PARTS][PER];  // a thread's side by side
#define NCPS_OF(buffer, j) buffer[now][(j) % uint(PARTS)][(j) / uint(PARTS)]
#endif
#if MEMORY
constexpr int GATES = 4;
#if LISTS
constexpr int HELD = 0;
#else
constexpr int HELD = PER <= 4 ? PER : 0;  // targets whose weights of the LSTM stay in registers
#endif
threadgroup float dz_buffer[GATES][UNITS];
#endif
const uint B = uint(sizes[0]), T = uint(sizes[1]), U = uint(sizes[2]), H = uint(sizes[3]);
const uint groups = uint(sizes[4]);
const uint lane = thread_position_in_threadgroup.x, group = threadgroup_position_in_grid.x;
const uint part = lane % uint(PARTS), i = lane / uint(PARTS);
const bool live = i < H, writes = live && part == 0u;

float s2[PER], m2[PER], w[PER], we[PER];
LtcSynapseGradient<float> own[PER];
#if LISTS
uint target[PER];
const uint columns = uint(PER * PARTS);  // of the synapses
#else
const uint columns = H;
#endif
NCPS_UNROLL
for (int q = 0; q < PER; ++q) {
  const uint j = part + uint(q * PARTS);
  const bool on = live && j < columns;
  const uint at = on ? i * columns + j : 0u;
#if LISTS
  target[q] = uint(targets[at]);
#endif
  s2[q] = on ? float(synapse_s2[at]) : 0.0f;
  m2[q] = on ? float(synapse_m2[at]) : 0.0f;
  w[q] = on ? float(synapse_w[at]) : 0.0f;
  we[q] = on ? float(synapse_we[at]) : 0.0f;
  own[q].s2 = own[q].m2 = own[q].w = own[q].we = 0.0f;
}
#if MEMORY
float held[GATES][HELD + (HELD == 0)];
NCPS_UNROLL
for (int q = 0; q < HELD; ++q) {
  const uint j = part + uint(q * PARTS);
  const bool on = live && j < H;
  NCPS_UNROLL
  for (int g = 0; g < GATES; ++g) {
    held[g][q] = on ? float(recurrent[(uint(g) * H + j) * H + i]) : 0.0f;
  }
}
if (part == 0u && !live && i < uint(UNITS)) {  // padding that others read
  NCPS_UNROLL
  for (int g = 0; g < GATES; ++g) dz_buffer[g][i] = 0.0f;
}
#endif
const float cm_i = live ? float(cm[i]) : 1.0f;
float dcm_i = 0.0f;
uint now = 0u;
for (uint b = group; b < B; b += groups) {
  float dv = 0.0f;  // dL/dv of source i, equal in its PARTS threads
#if RESETS
  float dv_anew_i = 0.0f;
#endif
#if MEMORY
  float dc = 0.0f;
#if RESETS
  float dc_anew_i = 0.0f;
#endif
#endif
  uint at = (b * T + T) * U - 1u;
  float v_next = live ? float(states[(b * T + T - 1u) * H + i]) : 0.0f;
  float v_soon = live ? float(before[at * H + i]) : 0.0f;
  float n_soon = live ? float(saved[2u * at * H + i]) : 0.0f;
  float d_soon = live ? float(saved[(2u * at + 1u) * H + i]) : 0.0f;
  for (uint t = T; t-- > 0u;) {
    const uint row = b * T + t;
    const float k = float(ts[row]) / float(U);
    float dn_step = 0.0f, dd_step = 0.0f, dk_step = 0.0f;
    if (live) dv += float(dstates[row * H + i]);
#if RESETS || MEMORY
    v_next = live ? float(states[row * H + i]) : 0.0f;  // not what the next step reads
#endif
    for (uint u = U; u-- > 0u;) {
      const float v = v_soon, n = n_soon, d = d_soon;
      const float g = live ? ltc_update_backward(dv, d, cm_i, k) : 0.0f;
      const LtcSumsGradient<float> sums = ltc_sums_backward(g, v_next, k);
      if (part == 0u && i < uint(UNITS)) {
        NCPS_OF(dn_buffer, i) = sums.dn;
        NCPS_OF(dd_buffer, i) = sums.dd;
      }
      threadgroup_barrier(mem_flags::mem_threadgroup);
      at -= at > 0u ? 1u : 0u;  // past the row's begin it is read but not used
      v_soon = live ? float(before[at * H + i]) : 0.0f;
      n_soon = live ? float(saved[2u * at * H + i]) : 0.0f;
      d_soon = live ? float(saved[(2u * at + 1u) * H + i]) : 0.0f;
      dn_step += sums.dn;
      dd_step += sums.dd;
      dk_step = ltc_k_backward(dk_step, g, n, d, v_next);
      dcm_i = ltc_cm_backward(dcm_i, g, v, v_next);
      float sum = 0.0f;
      NCPS_UNROLL
      for (int q = 0; q < PER; ++q) {
#if LISTS
        const float dn_j = dn_buffer[now][target[q]], dd_j = dd_buffer[now][target[q]];
#else
        const float dn_j = dn_buffer[now][part][q], dd_j = dd_buffer[now][part][q];
#endif
        const float gate = ltc_gate(v, s2[q], m2[q]);
        const float dz = ltc_gate_backward(gate, w[q], we[q], dn_j, dd_j);
        own[q] = ltc_synapse_backward(own[q], dz, v, gate, dn_j, dd_j);
        sum = ltc_source_backward(sum, dz, s2[q]);
      }
      sum += simd_shuffle_xor(sum, ushort(1));
      if (PARTS > 2) sum += simd_shuffle_xor(sum, ushort(2));
      if (PARTS == 8) sum += simd_shuffle_xor(sum, ushort(4));
      dv = ltc_dv(g, cm_i, sum);
      v_next = v;
      now = 1u - now;
    }
    if (writes) {
      dnum[row * H + i] = dn_step;
      dden[row * H + i] = dd_step;
      dts[row * H + i] = dk_step / float(U);
    }
#if RESETS
    const bool anew = float(resets[row]) != 0.0f;  // the same in all threads
#endif
#if MEMORY
    const uint own_i = live ? i : 0u, gate_at = row * uint(GATES) * H + own_i;
    float c_before =
        t > 0u ? float(c_states[(t > 0u ? row - 1u : row) * H + own_i]) : float(c0[b * H + own_i]);
#if RESETS
    if (anew) c_before = c_anew[b * H + own_i];
#endif
    const LstmGates<float> gate_of = {gates[gate_at], gates[gate_at + H], gates[gate_at + 2u * H],
                                      gates[gate_at + 3u * H]};
    const LstmGradient<float> from = lstm_backward(
        gate_of, c_before, float(c_states[row * H + own_i]), dv, dc + dc_states[row * H + own_i]);
    dc = from.c;
    const float each[GATES] = {from.i, from.ig, from.fg, from.og};
    if (writes) {
      NCPS_UNROLL
      for (int g = 0; g < GATES; ++g) {
        dz_buffer[g][i] = each[g];
        dz[gate_at + uint(g) * H] = each[g];
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);  // they are read before the next unfold's
    dv = 0.0f;
    NCPS_UNROLL
    for (int q = 0; q < HELD; ++q) {
      NCPS_UNROLL
      for (int g = 0; g < GATES; ++g) dv += held[g][q] * dz_buffer[g][part + uint(q * PARTS)];
    }
    for (uint j = HELD > 0 ? H : part; j < H; j += uint(PARTS)) {
      NCPS_UNROLL
      for (int g = 0; g < GATES; ++g) {
        dv += dz_buffer[g][j] * recurrent[(uint(g) * H + j) * H + own_i];
      }
    }
    dv += simd_shuffle_xor(dv, ushort(1));
    if (PARTS > 2) dv += simd_shuffle_xor(dv, ushort(2));
    if (PARTS == 8) dv += simd_shuffle_xor(dv, ushort(4));
#endif
#if RESETS
    if (anew) {
      dv_anew_i += dv;
      dv = 0.0f;
#if MEMORY
      dc_anew_i += dc;
      dc = 0.0f;
#endif
    }
#endif
  }
  if (writes) {
    dv0[b * H + i] = dv;
#if RESETS
    dv_anew[b * H + i] = dv_anew_i;
#endif
#if MEMORY
    dc0[b * H + i] = dc;
#if RESETS
    dc_anew[b * H + i] = dc_anew_i;
#endif
#endif
  }
}
if (writes) dcm[group * H + i] = dcm_i;
NCPS_UNROLL
for (int q = 0; q < PER; ++q) {
  const uint j = part + uint(q * PARTS);
  if (live) {  // padding too: a condition for each synapse would cost registers all along
    const uint slab = (group * 4u * H + i) * uint(PER * PARTS) + j;
    slabs[slab] = ltc_folded_gradient(own[q].s2);
    slabs[slab + H * uint(PER * PARTS)] = ltc_folded_gradient(own[q].m2);
    slabs[slab + 2u * H * uint(PER * PARTS)] = own[q].w;
    slabs[slab + 3u * H * uint(PER * PARTS)] = own[q].we;
  }
}
#undef NCPS_OF
