// CfC update, forward (MATHS 1): the pointwise end of one step whose products are MLX's, for large
// batches and states.
//
// A thread owns one (neuron, batch row). No threadgroup memory, no barriers.
//
//   sizes      B, H
//   flag       SAVE                         : what the gradient needs leaves
//   flag       PURE                         : the mode pure
//   int        HEADS : 3: ff1, ff2, t; 4: ff1, ff2, a, b; 1: ff1 in the mode pure
//   int        MODE                         : an NcpsCfcMode
//   int        HEAD_ACTIVATION              : an NcpsActivation, of ff1 and ff2
//   in float   z [B, HEADS * H]             : pre-activations of the heads side by side
//   in float   ts [B] if PURE or HEADS == 4 : timespans
//   in float   ts [1] if HEADS == 3         : not read
//   in float   w_tau, A [H] if PURE
//   out float  h [B, H]
//   out float  saved [B, HEADS * H] if SAVE : F1, F2, g (and a with 4 heads) or f
const uint B = uint(sizes[0]), H = uint(sizes[1]);
const uint j = thread_position_in_grid.x, b = thread_position_in_grid.y;
if (j < H && b < B) {
  const uint at = b * uint(HEADS) * H + j;
#if PURE
  const float f = float(z[at]);
  h[b * H + j] = cfc_pure(f, float(w_tau[j]), float(A[j]), float(ts[b]));
#if SAVE
  saved[at] = f;
#endif
#else
  const float F1 = ncps_activation<HEAD_ACTIVATION>(float(z[at]));
  const float F2 = ncps_activation<HEAD_ACTIVATION>(float(z[at + H]));
  const float a = float(z[at + 2u * H]);
  const float u = HEADS == 4 ? a * ts[HEADS == 4 ? b : 0u] + z[at + uint(HEADS - 1) * H] : a;
  const float g = ncps_sigmoid(u);
  h[b * H + j] = cfc_blend<MODE>(F1, F2, g);
#if SAVE
  saved[at] = F1;
  saved[at + H] = F2;
  saved[at + 2u * H] = g;
  if (HEADS == 4) saved[at + uint(HEADS - 1) * H] = a;
#endif
#endif
}
