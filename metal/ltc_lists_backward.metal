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
//   sizes      B, T, U, H, slices
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
//   in int     neurons [32 * slices] : of the slices
//   in int     begins [slices + 1]   : the first entry of each slice, over 32
//   in int     targets [entries]     : of the entries
//   out float  dv0 [B, H]            : dL/dv before the first step
//   out float  grad [B, T, U, H]     : dL/dv' of each unfold over its denominator
threadgroup float dn_buffer[SIMDS][UNITS][ROWS];
threadgroup float dd_buffer[SIMDS][UNITS][ROWS];
threadgroup float dv_buffer[SIMDS][UNITS][ROWS];
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
