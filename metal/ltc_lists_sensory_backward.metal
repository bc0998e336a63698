// dL/dx of the sums over the inputs (MATHS 3), for sparse wirings; the twin of
// ltc_lists_sensory_forward.metal, with slices of 32 *inputs* and their outgoing synapses, whose
// gradients ltc_lists_gradient.metal makes.
//
// A thread owns one input and ROWS rows. No threadgroup memory, no barrier. The grid may be larger
// than [32 slices, row blocks]: checked here.
//
//   sizes      rows, I, H, slices
//   int        ROWS                  : rows of a thread
//   in float   x [rows, I]           : inputs
//   in float   dnum, dden [rows, H]
//   in int     targets [entries]     : of the entries
//   in float   synapse_s2, synapse_m2, synapse_w, synapse_we [entries]
//   in int     neurons [32 * slices] : of the slices
//   in int     begins [slices + 1]   : the first entry of each slice, over 32
//   out float  dx [rows, I]
const uint rows = uint(sizes[0]), I = uint(sizes[1]), H = uint(sizes[2]), slices = uint(sizes[3]);
const uint slot = thread_position_in_grid.x, slice = slot / 32u, lane = slot % 32u;
const uint first = thread_position_in_grid.y * uint(ROWS);
if (slice >= slices || first >= rows) return;
const int neuron = neurons[slot];
if (neuron < 0) return;

const uint i = uint(neuron);
float v[ROWS], sum[ROWS];
uint row[ROWS];
NCPS_UNROLL
for (int r = 0; r < ROWS; ++r) {
  row[r] = first + uint(r) < rows ? first + uint(r) : rows - 1u;
  v[r] = x[row[r] * I + i];
  sum[r] = 0.0f;
}
for (uint e = uint(begins[slice]); e < uint(begins[slice + 1u]); ++e) {
  const uint at = 32u * e + lane, j = uint(targets[at]);
  const float s2 = synapse_s2[at], m2 = synapse_m2[at], w = synapse_w[at], we = synapse_we[at];
  NCPS_UNROLL
  for (int r = 0; r < ROWS; ++r) {
    const float dn = dnum[row[r] * H + j], dd = dden[row[r] * H + j];
    const float dz = ltc_gate_backward(ltc_gate(v[r], s2, m2), w, we, dn, dd);
    sum[r] = ltc_source_backward(sum[r], dz, s2);
  }
}
NCPS_UNROLL
for (int r = 0; r < ROWS; ++r) {
  if (first + uint(r) < rows) dx[row[r] * I + i] = ltc_folded_gradient(sum[r]);
}
