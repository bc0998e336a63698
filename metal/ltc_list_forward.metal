// LTC recurrence, forward, for sparse wirings (MATHS 3): all T steps and U unfolds of one batch row
// in one SIMD group, which visits the synapses of a list alone. backends/_ltc_lists.py makes the
// list, backends/_ltc_kernels.py calls the kernel.
//
// A slice is 32 targets, one per lane, `neurons[32 slice + lane]`, or -1; sorted by their number of
// synapses, so that the lanes of a slice end together. Entry e of a slice, begins[slice] <= e <
// begins[slice + 1], holds a synapse of each lane at 32 e + lane; padding has w = we = 0. v is
// double-buffered in threadgroup memory: one SIMD barrier per unfold, none of the threadgroup,
// whose SIMDS groups own a row each. A group past the batch leaves at once. UNITS >= H.
// sizes: B, T, U, units, slices.  sources: of the entries;  synapses: of the entries; num, den [B,
// T, H];  v0 [B, H];  ts [B, T];  cm [H];  states [B, T, H];  with SAVE saved [B, T, U, 2, H] of n
// and d.
threadgroup float v_buffer[SIMDS][2][UNITS];
const uint B = uint(sizes[0]), T = uint(sizes[1]), U = uint(sizes[2]), H = uint(sizes[3]);
const uint slices = uint(sizes[4]);
const uint lane = thread_position_in_threadgroup.x % 32u;
const uint group = thread_position_in_threadgroup.x / 32u;
const uint b = threadgroup_position_in_grid.x * uint(SIMDS) + group;
if (b >= B) return;

for (uint j = lane; j < H; j += 32u) v_buffer[group][0][j] = v0[b * H + j];
simdgroup_barrier(mem_flags::mem_threadgroup);
uint now = 0u;
for (uint t = 0u; t < T; ++t) {
  const uint row = b * T + t;
  const float k = float(ts[row]) / float(U);
  for (uint u = 0u; u < U; ++u) {
    for (uint slice = 0u; slice < slices; ++slice) {
      float n = 0.0f, d = 0.0f;
      for (uint e = uint(begins[slice]); e < uint(begins[slice + 1u]); ++e) {
        const uint at = 32u * e + lane;
        const float v = v_buffer[group][now][sources[at]];
        const float gate = ltc_gate(v, float(synapse_s2[at]), float(synapse_m2[at]));
        n += gate * synapse_we[at];
        d += gate * synapse_w[at];
      }
      const int neuron = neurons[32u * slice + lane];
      if (neuron >= 0) {
        const uint j = uint(neuron);
        n += num[row * H + j];
        d += den[row * H + j];
        const float v = ltc_update(float(v_buffer[group][now][j]), n, d, float(cm[j]), k);
        v_buffer[group][1u - now][j] = v;
#if SAVE
        const uint at = 2u * (row * U + u) * H + j;
        saved[at] = n;
        saved[at + H] = d;
#endif
        if (u == U - 1u) states[row * H + j] = v;
      }
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
    now = 1u - now;
  }
}
