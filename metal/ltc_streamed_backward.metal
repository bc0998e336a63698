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
threadgroup float dn_buffer[UNITS * ROWS];
threadgroup float dd_buffer[UNITS * ROWS];
threadgroup float dv_buffer[UNITS * ROWS];
const uint B = uint(sizes[0]), T = uint(sizes[1]), U = uint(sizes[2]), H = uint(sizes[3]);
const uint lane = thread_position_in_threadgroup.x, part = lane % uint(PARTS);
const uint slot = lane / uint(PARTS), slots = threads_per_threadgroup.x / uint(PARTS);
const uint first = threadgroup_position_in_grid.x * uint(ROWS);

uint batch[ROWS];
bool mine[ROWS];
NCPS_UNROLL
for (int r = 0; r < ROWS; ++r) {
  batch[r] = first + uint(r) < B ? first + uint(r) : B - 1u;
  mine[r] = uint(r) % uint(PARTS) == part;
}
for (uint i = slot; i < H; i += slots) {
  NCPS_UNROLL
  for (int r = 0; r < ROWS; ++r) {
    if (mine[r]) dv_buffer[i * uint(ROWS) + uint(r)] = 0.0f;
  }
}
for (uint t = T; t-- > 0u;) {
  float k[ROWS];
  NCPS_UNROLL
  for (int r = 0; r < ROWS; ++r) k[r] = float(ts[batch[r] * T + t]) / float(U);
  for (uint u = U; u-- > 0u;) {
    const bool last = u == U - 1u;
    for (uint i = slot; i < H; i += slots) {
      NCPS_UNROLL
      for (int r = 0; r < ROWS; ++r) {
        if (mine[r]) {
          const uint row = batch[r] * T + t, at = row * U + u, cell = i * uint(ROWS) + uint(r);
          float v_next = states[row * H + i];
          if (!last) v_next = before[(at + 1u) * H + i];
          float dv = dv_buffer[cell];
          if (last) dv += dstates[row * H + i];
          const float d = saved[(2u * at + 1u) * H + i], cm_i = cm[i];
          const float g = ltc_update_backward(dv, d, cm_i, k[r]);
          const LtcSumsGradient<float> sums = ltc_sums_backward(g, v_next, k[r]);
          dn_buffer[cell] = sums.dn;
          dd_buffer[cell] = sums.dd;
          dv_buffer[cell] = g * cm_i;
          if (first + uint(r) < B) grad[at * H + i] = g;
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
        v[r] = before[((batch[r] * T + t) * U + u) * H + source];
        sum[r] = 0.0f;
      }
      for (uint j = part; j < H; j += uint(PARTS)) {
        const uint at = j * H + source;
        const float s2 = synapse_s2[at], m2 = synapse_m2[at];
        const float w = synapse_w[at], we = synapse_we[at];
        NCPS_UNROLL
        for (int r = 0; r < ROWS; ++r) {
          const float dn = dn_buffer[j * uint(ROWS) + uint(r)];
          const float dd = dd_buffer[j * uint(ROWS) + uint(r)];
          const float dz = ltc_gate_backward(ltc_gate(v[r], s2, m2), w, we, dn, dd);
          sum[r] = ltc_source_backward(sum[r], dz, s2);
        }
      }
      NCPS_UNROLL
      for (int r = 0; r < ROWS; ++r) {
        if (PARTS > 1) sum[r] += simd_shuffle_xor(sum[r], ushort(1));
        if (PARTS > 2) sum[r] += simd_shuffle_xor(sum[r], ushort(2));
      }
      NCPS_UNROLL
      for (int r = 0; r < ROWS; ++r) {
        const uint cell = i * uint(ROWS) + uint(r);
        if (live && mine[r]) dv_buffer[cell] = ltc_dv(float(dv_buffer[cell]), sum[r]);
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
}
for (uint i = slot; i < H; i += slots) {
  NCPS_UNROLL
  for (int r = 0; r < ROWS; ++r) {
    if (mine[r] && first + uint(r) < B) {
      dv0[batch[r] * H + i] = dv_buffer[i * uint(ROWS) + uint(r)];
    }
  }
}
