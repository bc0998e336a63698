// Gradients of a matrix of synapses from those of their sums (MATHS 3): of the sensory synapses
// over B T rows, and of the recurrent ones over B T U rows where they don't stay in registers.
//
// A thread owns one synapse (i, j) and one chunk of rows; its four gradients stay in registers and
// leave in the chunk's slab, to be summed over chunks in a fixed order. The 32 targets of a SIMD
// group share source and chunk, so its control flow is uniform. No threadgroup memory, no barrier.
// Threadgroups are [32, n]; the grid may be larger than [targets, sources, chunks]: checked here.
//
//   sizes      rows, S, H, chunks
//   flag       SOURCE_GRADIENT         : dL/dx leaves too
//   in float   x [rows, S]             : the sources' values
//   in float   dnum, dden [rows, H]
//   in float   synapse_s2, synapse_m2, synapse_w, synapse_we [S, H]
//   out float  slabs [chunks, 4, S, H] : of s2, m2, w, we
//   out float  dx [rows, S, (H + 31) / 32] if SOURCE_GRADIENT : shares of the sum over the last
const uint rows = uint(sizes[0]), S = uint(sizes[1]), H = uint(sizes[2]), chunks = uint(sizes[3]);
const uint j = thread_position_in_grid.x, i = thread_position_in_grid.y;
const uint chunk = thread_position_in_grid.z;
const uint blocks = (H + 31u) / 32u;
if (i >= S || chunk >= chunks || j >= blocks * 32u) return;

const bool live = j < H;
const uint at = i * H + (live ? j : 0u);
const float s2 = synapse_s2[at], m2 = synapse_m2[at], w = synapse_w[at], we = synapse_we[at];
LtcSynapseGradient<float> own = {0.0f, 0.0f, 0.0f, 0.0f};
const uint per_chunk = (rows + chunks - 1u) / chunks;
const uint end = (chunk + 1u) * per_chunk < rows ? (chunk + 1u) * per_chunk : rows;
for (uint row = chunk * per_chunk; row < end; ++row) {
  const float v = x[row * S + i];
  const float dn = live ? float(dnum[row * H + j]) : 0.0f;
  const float dd = live ? float(dden[row * H + j]) : 0.0f;
  const float gate = ltc_gate(v, s2, m2);
  const float dz = ltc_gate_backward(gate, w, we, dn, dd);
  own = ltc_synapse_backward(own, dz, v, gate, dn, dd);
#if SOURCE_GRADIENT
  const float sum = simd_sum(dz * s2);
  if (thread_index_in_simdgroup == 0u)
    dx[(row * S + i) * blocks + j / 32u] = ltc_folded_gradient(sum);
#endif
}
if (live) {
  const uint slab = chunk * 4u * S * H + at;
  slabs[slab] = ltc_folded_gradient(own.s2);
  slabs[slab + S * H] = ltc_folded_gradient(own.m2);
  slabs[slab + 2u * S * H] = own.w;
  slabs[slab + 3u * S * H] = own.we;
}
