// The sums over the inputs of every row of B T steps, with the leak (MATHS 3): num = g vleak + Ns
// and den = g + eps + Ds, which the recurrence reads once per step.
//
// A thread owns one target j and ROWS rows, so that a synapse's parameters serve ROWS gates. No
// threadgroup memory, no barrier. The grid may be larger than [targets, row blocks]: checked here.
//
//   sizes      rows, I, H
//   int        ROWS                   : rows of a thread
//   in float   x [rows, I]            : inputs
//   in float   leak_num, leak_den [H] : g vleak; g + eps
//   in float   synapse_s2, synapse_m2, synapse_w, synapse_we [I, H]
//   out float  num, den [rows, H]
const uint rows = uint(sizes[0]), I = uint(sizes[1]), H = uint(sizes[2]);
const uint j = thread_position_in_grid.x, first = thread_position_in_grid.y * uint(ROWS);
if (j >= H || first >= rows) return;

float n[ROWS], d[ROWS];
uint row[ROWS];
NCPS_UNROLL
for (int r = 0; r < ROWS; ++r) {
  row[r] = first + uint(r) < rows ? first + uint(r) : rows - 1u;
  n[r] = leak_num[j];
  d[r] = leak_den[j];
}
for (uint i = 0u; i < I; ++i) {
  const uint at = i * H + j;
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
