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
//   sizes      B, T, U, H
//   int        ROWS                  : batch rows of a threadgroup
//   int        PARTS                 : threads that share a source: 1, 2 or 4
//   int        UNITS                 : H, rounded up
//   in float   dstates [B, T, H]     : dL/dv of each step's potentials
//   in float   saved [B, T, U, 2, H] : n and d of every unfold
//   in float   states [B, T, H]      : potentials after each step
//   in float   ts [B, T]             : timespans
//   in float   cm [H]
//   in float   before [B, T, U, H]   : potentials before each unfold
//   in float   synapse_s2, synapse_m2, synapse_w, synapse_we [H, H]
//   out float  dv0 [B, H]            : dL/dv before the first step
//   out float  grad [B, T, U, H]     : dL/dv' of each unfold over its denominator
constexpr int OWN =
    ROWS > PARTS ? ROWS / PARTS : 1;  // rows of a thread; where ROWS < PARTS, or none
threadgroup float dn_buffer[UNITS][ROWS];
threadgroup float dd_buffer[UNITS][ROWS];
threadgroup float dv_buffer[UNITS][ROWS];
const uint B = uint(sizes[0]), T = uint(sizes[1]), U = uint(sizes[2]), H = uint(sizes[3]);
const uint lane = thread_position_in_threadgroup.x, part = lane % uint(PARTS);
const uint slot = lane / uint(PARTS), slots = threads_per_threadgroup.x / uint(PARTS);
const uint first = threadgroup_position_in_grid.x * uint(ROWS);

uint batch[OWN];  // of its rows
NCPS_UNROLL
for (int q = 0; q < OWN; ++q) {
  const uint row = first + uint(q * PARTS) + part;
  batch[q] = row < B ? row : B - 1u;
}
for (uint i = slot; i < H; i += slots) {
  for (uint r = part; r < uint(ROWS); r += uint(PARTS)) dv_buffer[i][r] = 0.0f;
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
      for (uint j = part; j < H; j += uint(PARTS)) {
        const uint at = j * H + source;
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
}
for (uint i = slot; i < H; i += slots) {
  for (uint r = part; r < uint(ROWS); r += uint(PARTS)) {
    if (first + r < B) dv0[(first + r) * H + i] = dv_buffer[i][r];
  }
}
