// An LTC's parameters in the form that its kernels read (MATHS 6), all of them in one launch.
//
// A thread owns one target of one row: of a recurrent source, of an input, and in the last row what
// is the neuron's own. No threadgroup memory, no barrier. The grid may be larger than [H, H + I +
// 1]: checked here.
//
//   sizes      I, H
//   flag       IMPLICIT                   : cm, gleak, w and sensory_w go through softplus
//   in float   gleak, vleak, cm [H]
//   in float   w, sigma, mu, erev [H, H]
//   in float   sensory_w, sensory_sigma, sensory_mu, sensory_erev [I, H]
//   in float   mask [H, H]                : of which |mask| counts
//   in float   sensory_mask [I, H]
//   in float   input_w, input_b [I]       : x is mapped to x input_w + input_b
//   in float   epsilon [1]
//   out float  folded_cm, leak_num, leak_den [H]
//   out float  folded_s2, folded_m2, folded_w, folded_we [H, H]
//   out float  sensory_folded_s2, sensory_folded_m2, sensory_folded_w, sensory_folded_we [I, H]
const uint I = uint(sizes[0]), H = uint(sizes[1]);
const uint j = thread_position_in_grid.x, row = thread_position_in_grid.y;
if (j >= H || row > H + I) return;

#define NCPS_POSITIVE(a) (IMPLICIT ? ncps_softplus(a) : (a))
if (row == H + I) {
  const float g = NCPS_POSITIVE(float(gleak[j]));
  folded_cm[j] = NCPS_POSITIVE(float(cm[j]));
  leak_num[j] = g * float(vleak[j]);
  leak_den[j] = g + float(epsilon[0]);
} else if (row >= H) {
  const uint i = row - H, at = i * H + j;
  const float s2 = float(sensory_sigma[at]) * -1.44269504088896341f;
  const float positive = NCPS_POSITIVE(float(sensory_w[at]));
  const float weight = positive * ncps_abs(float(sensory_mask[at]));
  sensory_folded_s2[at] = s2 * float(input_w[i]);
  sensory_folded_m2[at] = s2 * (float(input_b[i]) - float(sensory_mu[at]));
  sensory_folded_w[at] = weight;
  sensory_folded_we[at] = weight * float(sensory_erev[at]);
} else {
  const uint at = row * H + j;
  const float s2 = float(sigma[at]) * -1.44269504088896341f;
  const float positive = NCPS_POSITIVE(float(w[at]));
  const float weight = positive * ncps_abs(float(mask[at]));
  folded_s2[at] = s2;
  folded_m2[at] = -s2 * float(mu[at]);
  folded_w[at] = weight;
  folded_we[at] = weight * float(erev[at]);
}
#undef NCPS_POSITIVE
