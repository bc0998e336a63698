// Gradients of the synapses of a wiring's lists from those of their sums (MATHS 3): of the
// recurrent ones over B T U rows, of the sensory ones over B T; the sparse twin of
// ltc_synapse_backward.metal.
//
// A thread owns one synapse and one chunk of rows; its four gradients stay in registers and leave
// in the chunk's slab, to be summed over chunks in a fixed order. No threadgroup memory, no
// barrier. The grid may be larger than [synapses, chunks]: checked here.
//
//   sizes      rows, count, S, H, chunks
//   in float   x [rows, S]              : the sources' values
//   in float   dnum, dden [rows, H]
//   in int     sources, targets [count] : of the synapses
//   in float   synapse_s2, synapse_m2, synapse_w, synapse_we [count]
//   out float  slabs [chunks, 4, count] : of s2, m2, w, we
const uint rows = uint(sizes[0]), count = uint(sizes[1]), S = uint(sizes[2]), H = uint(sizes[3]);
const uint chunks = uint(sizes[4]);
const uint e = thread_position_in_grid.x, chunk = thread_position_in_grid.y;
if (e >= count || chunk >= chunks) return;

const uint i = uint(sources[e]), j = uint(targets[e]);
const float s2 = synapse_s2[e], m2 = synapse_m2[e], w = synapse_w[e], we = synapse_we[e];
LtcSynapseGradient<float> own = {0.0f, 0.0f, 0.0f, 0.0f};
const uint per_chunk = (rows + chunks - 1u) / chunks;
const uint end = (chunk + 1u) * per_chunk < rows ? (chunk + 1u) * per_chunk : rows;
for (uint row = chunk * per_chunk; row < end; ++row) {
  const float v = x[row * S + i], dn = dnum[row * H + j], dd = dden[row * H + j];
  const float gate = ltc_gate(v, s2, m2);
  const float dz = ltc_gate_backward(gate, w, we, dn, dd);
  own = ltc_synapse_backward(own, dz, v, gate, dn, dd);
}
const uint slab = chunk * 4u * count + e;
slabs[slab] = ltc_folded_gradient(own.s2);
slabs[slab + count] = ltc_folded_gradient(own.m2);
slabs[slab + 2u * count] = own.w;
slabs[slab + 3u * count] = own.we;
