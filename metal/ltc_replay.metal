// The potentials before each unfold, from the sums that the forward saved and by its own arithmetic
// (MATHS 3); the first kernel of every LTC backward.
//
// A thread owns one neuron of one step. No threadgroup memory, no barrier. The grid may be larger
// than [neurons, B T]: checked here.
//
//   sizes      B, T, U, H
//   in float   saved [B, T, U, 2, H] : n and d of every unfold
//   in float   states [B, T, H]      : potentials after each step
//   in float   ts [B, T]             : timespans
//   in float   cm [H]
//   in float   v0 [B, H]             : potentials before the first step
//   out float  before [B, T, U, H]   : potentials before each unfold
const uint B = uint(sizes[0]), T = uint(sizes[1]), U = uint(sizes[2]), H = uint(sizes[3]);
const uint j = thread_position_in_grid.x, row = thread_position_in_grid.y;
if (j >= H || row >= B * T) return;

const float k = float(ts[row]) / float(U), cm_j = cm[j];
float v = 0.0f;
if (row % T == 0u) {
  v = v0[row / T * H + j];
} else {
  v = states[(row - 1u) * H + j];
}
for (uint u = 0u; u < U; ++u) {
  const uint at = row * U + u;
  before[at * H + j] = v;
  v = ltc_update(v, float(saved[2u * at * H + j]), float(saved[(2u * at + 1u) * H + j]), cm_j, k);
}
