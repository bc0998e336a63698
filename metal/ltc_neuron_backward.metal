// The neurons' own part of the LTC backward (MATHS 3) where the recurrence keeps only each unfold's
// dL/dv' divided by its denominator: gradients of the sums n and d per unfold and per step, and the
// shares of dcm and dts.
//
// A thread owns one neuron of one step. No threadgroup memory, no barrier. The grid may be larger
// than [neurons, B T]: checked here.
//
//   sizes      B, T, U, H
//   in float   grad [B, T, U, H]     : dL/dv' of each unfold over its denominator
//   in float   before [B, T, U, H]   : potentials before each unfold
//   in float   saved [B, T, U, 2, H] : n and d of every unfold
//   in float   states [B, T, H]      : potentials after each step
//   in float   ts [B, T]             : timespans
//   out float  unfold_dn, unfold_dd [B, T, U, H] : of each unfold's sums
//   out float  dnum, dden [B, T, H]  : of each step's sums
//   out float  dcm, dts [B, T, H]    : shares of the sums
const uint B = uint(sizes[0]), T = uint(sizes[1]), U = uint(sizes[2]), H = uint(sizes[3]);
const uint j = thread_position_in_grid.x, row = thread_position_in_grid.y;
if (j >= H || row >= B * T) return;

const float k = float(ts[row]) / float(U);
float dn_step = 0.0f, dd_step = 0.0f, dcm_step = 0.0f, dk_step = 0.0f;
float v_next = states[row * H + j];
for (uint u = U; u-- > 0u;) {
  const uint at = row * U + u;
  const float g = grad[at * H + j], v = before[at * H + j];
  const float n = saved[2u * at * H + j], d = saved[(2u * at + 1u) * H + j];
  const LtcSumsGradient<float> sums = ltc_sums_backward(g, v_next, k);
  unfold_dn[at * H + j] = sums.dn;
  unfold_dd[at * H + j] = sums.dd;
  dn_step += sums.dn;
  dd_step += sums.dd;
  dcm_step = ltc_cm_backward(dcm_step, g, v, v_next);
  dk_step = ltc_k_backward(dk_step, g, n, d, v_next);
  v_next = v;
}
dnum[row * H + j] = dn_step;
dden[row * H + j] = dd_step;
dcm[row * H + j] = dcm_step;
dts[row * H + j] = dk_step / float(U);
