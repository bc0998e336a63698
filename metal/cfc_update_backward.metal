// CfC update, backward (MATHS 1), the twin of cfc_update_forward.metal: gradients of the heads'
// pre-activations from dL/dh. backends/_cfc_gemm.py calls it.
//
// A thread owns one (neuron, batch row). No threadgroup memory, no barriers.
// sizes: B, units.  dh [B, units];  saved [B, HEADS units];  ts [B];  w_tau, A [units] (pure);  dz
// [B, HEADS units];  pure: shares [3, B, units] of dw_tau, dA, dts.
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
