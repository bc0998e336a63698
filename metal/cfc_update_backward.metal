// CfC update, backward (MATHS 1), the twin of cfc_update_forward.metal: gradients of the heads'
// pre-activations from dL/dh.
//
// A thread owns one (neuron, batch row). No threadgroup memory, no barriers.
//
//   sizes      B, H
//   flag       PURE                         : the mode pure
//   int        HEADS                        : 3, 4 or 1, as in the forward
//   int        MODE                         : an NcpsCfcMode
//   int        HEAD_ACTIVATION              : an NcpsActivation, of ff1 and ff2
//   in float   dh [B, H]
//   in float   saved [B, HEADS * H]         : of the forward
//   in float   ts [B] if PURE or HEADS == 4 : timespans
//   in float   ts [1] if HEADS == 3         : not read
//   in float   w_tau, A [H] if PURE
//   out float  dz [B, HEADS * H]
//   out float  shares [3, B, H] if PURE     : of dw_tau, dA, dts
const uint B = uint(sizes[0]), H = uint(sizes[1]);
const uint j = thread_position_in_grid.x, b = thread_position_in_grid.y;
if (j < H && b < B) {
  const uint at = b * uint(HEADS) * H + j, cell = b * H + j;
#if PURE
  const CfcPureGradient<float> g = cfc_pure_backward(float(dh[cell]), float(saved[at]),
                                                     float(w_tau[j]), float(A[j]), float(ts[b]));
  dz[at] = g.df;
  shares[cell] = g.dw_tau;
  shares[B * H + cell] = g.dA;
  shares[2u * B * H + cell] = g.dts;
#else
  const CfcBlendGradient<float> g = cfc_blend_backward<MODE, HEAD_ACTIVATION>(
      float(dh[cell]), float(saved[at]), float(saved[at + H]), float(saved[at + 2u * H]));
  dz[at] = g.df1;
  dz[at + H] = g.df2;
  dz[at + 2u * H] = HEADS == 4 ? g.du * ts[HEADS == 4 ? b : 0u] : g.du;
  if (HEADS == 4) dz[at + uint(HEADS - 1) * H] = g.du;
#endif
}
