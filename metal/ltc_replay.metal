// The potentials before each unfold, from the sums that the forward saved and by its own arithmetic
// (MATHS 3); the first kernel of every LTC backward.
//
// A thread owns one neuron of one step. No threadgroup memory, no barrier. The grid may be larger
// than [neurons, B T]: checked here.
//
//   sizes      B, T, U, H
//   flag       RESETS                : the state starts anew before some steps
//   flag       MEMORY                : an LSTM in front, whose output is read
//   in float   saved [B, T, U, 2, H] : n and d of every unfold
//   in float   states [B, T, H]      : potentials after each step
//   in float   ts [B, T]             : timespans
//   in float   cm [H]
//   in float   v0 [B, H] if not MEMORY : potentials before the first step
//   in float   resets [B, T] if RESETS and not MEMORY : not 0 where the state starts anew
//   in float   v_anew [B, H] if RESETS and not MEMORY : from these potentials
//   in float   c_states [B, T, H] if MEMORY : the LSTM's c after each step
//   in float   gates [B, T, 4 * H] if MEMORY : its gates
//   out float  before [B, T, U, H]   : potentials before each unfold
const uint B = uint(sizes[0]), T = uint(sizes[1]), U = uint(sizes[2]), H = uint(sizes[3]);
const uint j = thread_position_in_grid.x, row = thread_position_in_grid.y;
if (j >= H || row >= B * T) return;

const float k = float(ts[row]) / float(U), cm_j = cm[j];
float v = 0.0f;
#if MEMORY
v = lstm_output(float(c_states[row * H + j]), float(gates[(4u * row + 3u) * H + j]));
#else
if (row % T == 0u) {
  v = v0[row / T * H + j];
} else {
  v = states[(row - 1u) * H + j];
}
#if RESETS
if (float(resets[row]) != 0.0f) v = v_anew[row / T * H + j];
#endif
#endif
for (uint u = 0u; u < U; ++u) {
  const uint at = row * U + u;
  before[at * H + j] = v;
  v = ltc_update(v, float(saved[2u * at * H + j]), float(saved[(2u * at + 1u) * H + j]), cm_j, k);
}
