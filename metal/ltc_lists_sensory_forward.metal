// The sums over the inputs of every row of B T steps, with the leak (MATHS 3), for sparse wirings;
// the twin of ltc_sensory_forward.metal that visits the synapses of the lists alone, in the slices
// of ltc_lists_forward.metal.
//
// A thread owns one target and ROWS rows, so that a synapse's parameters serve ROWS gates. No
// threadgroup memory, no barrier. The grid may be larger than [32 slices, row blocks]: checked
// here.
//
//   sizes      rows, I, H, slices
//   int        ROWS                   : rows of a thread
//   in float   x [rows, I]            : inputs
//   in float   leak_num, leak_den [H] : g vleak; g + eps
//   in int     sources [entries]      : of the entries
//   in float   synapse_s2, synapse_m2, synapse_w, synapse_we [entries]
//   in int     neurons [32 * slices]  : of the slices
//   in int     begins [slices + 1]    : the first entry of each slice, over 32
//   out float  num, den [rows, H]
const uint rows = uint(sizes[0]), I = uint(sizes[1]), H = uint(sizes[2]), slices = uint(sizes[3]);
const uint slot = thread_position_in_grid.x, slice = slot / 32u, lane = slot % 32u;
const uint first = thread_position_in_grid.y * uint(ROWS);
if (slice >= slices || first >= rows) return;
const int neuron = neurons[slot];
if (neuron < 0) return;

const uint j = uint(neuron);
float n[ROWS], d[ROWS];
uint row[ROWS];
NCPS_UNROLL
for (int r = 0; r < ROWS; ++r) {
  row[r] = first + uint(r) < rows ? first + uint(r) : rows - 1u;
  n[r] = leak_num[j];
  d[r] = leak_den[j];
}
for (uint e = uint(begins[slice]); e < uint(begins[slice + 1u]); ++e) {
  const uint at = 32u * e + lane, i = uint(sources[at]);
  const float s2 = synapse_s2[at], m2 = synapse_m2[at], w = synapse_w[at], we = synapse_we[at];
  NCPS_UNROLL
  for (int r = 0; r < ROWS; ++r) {
    const float gate = ltc_gate(float(x[row[r] * I + i]), s2, m2);
    d[r] += gate * w;
    n[r] += gate * we;
  }
}
NCPS_UNROLL
for (int r = 0; r < ROWS; ++r) {
  if (first + uint(r) < rows) {
    num[row[r] * H + j] = n[r];
    den[row[r] * H + j] = d[r];
  }
}
