// LTC recurrence, backward, for sparse wirings (MATHS 3), the twin of ltc_list_forward.metal:
// carries dL/dv from the end over T and U, and gives each unfold's dL/dv' divided by its
// denominator, from which ltc_neuron_backward.metal and ltc_list_gradient.metal make the
// parameters' gradients. backends/_ltc_kernels.py calls it, after ltc_replay.metal.
//
// As in the forward, but a slice is 32 *sources*, one per lane, with their outgoing synapses. dn
// and dd of all targets and dL/dv stand in threadgroup memory: two SIMD barriers per unfold, none
// of the threadgroup. A group past the batch leaves at once. UNITS >= H.
// sizes: B, T, U, units, slices.  targets: of the entries;  synapses: of the entries; before [B, T,
// U, H];  saved [B, T, U, 2, H];  dstates, states [B, T, H];  ts [B, T];  cm [H]; dv0 [B, H];  grad
// [B, T, U, H].
threadgroup float dn_buffer[SIMDS][UNITS];
threadgroup float dd_buffer[SIMDS][UNITS];
threadgroup float dv_buffer[SIMDS][UNITS];
constexpr float MINUS_LN2 = -0.69314718055994531f;
const uint B = uint(sizes[0]), T = uint(sizes[1]), U = uint(sizes[2]), H = uint(sizes[3]);
const uint slices = uint(sizes[4]);
const uint lane = thread_position_in_threadgroup.x % 32u;
const uint group = thread_position_in_threadgroup.x / 32u;
const uint b = threadgroup_position_in_grid.x * uint(SIMDS) + group;
if (b >= B) return;

for (uint slice = 0u; slice < slices; ++slice) {
  const int neuron = neurons[32u * slice + lane];
  if (neuron >= 0) dv_buffer[group][neuron] = 0.0f;
}
for (uint t = T; t-- > 0u;) {
  const uint row = b * T + t;
  const float k = float(ts[row]) / float(U);
  for (uint u = U; u-- > 0u;) {
    const uint at = row * U + u;
    const bool last = u == U - 1u;
    for (uint slice = 0u; slice < slices; ++slice) {
      const int neuron = neurons[32u * slice + lane];
      if (neuron >= 0) {
        const uint i = uint(neuron);
        float v_next = states[row * H + i];
        if (!last) v_next = before[(at + 1u) * H + i];
        float dv = dv_buffer[group][i];
        if (last) dv += dstates[row * H + i];
        const float d = saved[(2u * at + 1u) * H + i], cm_i = cm[i];
        const float g = dv / ltc_update_denominator(d, cm_i, k);
        dn_buffer[group][i] = g * k;
        dd_buffer[group][i] = -(g * k) * v_next;
        dv_buffer[group][i] = g * cm_i;
        grad[at * H + i] = g;
      }
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
    for (uint slice = 0u; slice < slices; ++slice) {
      const int neuron = neurons[32u * slice + lane];
      const uint i = neuron >= 0 ? uint(neuron) : 0u;
      const float v = before[at * H + i];
      float sum = 0.0f;
      for (uint e = uint(begins[slice]); e < uint(begins[slice + 1u]); ++e) {
        const uint entry = 32u * e + lane;
        const float dn = dn_buffer[group][targets[entry]], dd = dd_buffer[group][targets[entry]];
        const float s2 = synapse_s2[entry];
        const float gate = ltc_gate(v, s2, float(synapse_m2[entry]));
        const float w = synapse_w[entry], we = synapse_we[entry];
        sum += ltc_gate_backward(gate, w, we, dn, dd) * s2;
      }
      if (neuron >= 0) dv_buffer[group][i] += sum * MINUS_LN2;
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
  }
}
for (uint slice = 0u; slice < slices; ++slice) {
  const int neuron = neurons[32u * slice + lane];
  if (neuron >= 0) dv0[b * H + uint(neuron)] = dv_buffer[group][neuron];
}
