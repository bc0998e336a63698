// Gradients of an LTC's parameters from those of what ltc_fold_forward makes of them (MATHS 6), all
// of them in one launch.
//
// A SIMD group owns one row: a recurrent source, an input, or in the last row what is the neurons'
// own; its lanes go through the targets 32 at a time. No threadgroup memory, no barrier. The grid
// may have more rows than H + I + 1: checked here.
//
//   sizes      I, H
//   flag       IMPLICIT                   : as in the forward
//   in float   gleak, vleak, cm [H]
//   in float   w, sigma, mu, erev [H, H]
//   in float   sensory_w, sensory_sigma, sensory_mu, sensory_erev [I, H]
//   in float   mask [H, H]
//   in float   sensory_mask [I, H]
//   in float   input_w, input_b [I]
//   in float   d_folded_cm, d_leak_num, d_leak_den [H]
//   in float   d_folded_s2, d_folded_m2, d_folded_w, d_folded_we [H, H]
//   in float   d_sensory_folded_s2, d_sensory_folded_m2 [I, H]
//   in float   d_sensory_folded_w, d_sensory_folded_we [I, H]
//   out float  gradients [3 * H + 5 * (H + I) * H + 2 * I] : of gleak, vleak, ..., input_b
const uint I = uint(sizes[0]), H = uint(sizes[1]);
const uint lane = thread_position_in_grid.x, row = thread_position_in_grid.y;

#define NCPS_POSITIVE(a) (IMPLICIT ? ncps_softplus(a) : (a))
#define NCPS_SLOPE(a) (IMPLICIT ? ncps_sigmoid(a) : 1.0f)
const uint squares = 3u * H, sensory = squares + 4u * H * H, masks = sensory + 4u * I * H;
const uint maps = masks + (H + I) * H;
float dinput_w = 0.0f, dinput_b = 0.0f;
for (uint j = lane; j < H; j += 32u) {
  if (row < H) {
    const uint at = row * H + j, all = H * H;
    const float s2 = float(sigma[at]) * -1.44269504088896341f;
    const float own = NCPS_POSITIVE(float(w[at])), kept = float(mask[at]);
    const float dwe = float(d_folded_we[at]), dm2 = float(d_folded_m2[at]);
    const float dweight = float(d_folded_w[at]) + dwe * float(erev[at]);
    const float sign = kept > 0.0f ? 1.0f : kept < 0.0f ? -1.0f : 0.0f;
    gradients[squares + at] = dweight * ncps_abs(kept) * NCPS_SLOPE(float(w[at]));
    gradients[squares + all + at] =
        (float(d_folded_s2[at]) - dm2 * float(mu[at])) * -1.44269504088896341f;
    gradients[squares + 2u * all + at] = dm2 * -s2;
    gradients[squares + 3u * all + at] = dwe * (own * ncps_abs(kept));
    gradients[masks + at] = dweight * own * sign;
  } else if (row < H + I) {
    const uint i = row - H, at = i * H + j, all = I * H;
    const float s2 = float(sensory_sigma[at]) * -1.44269504088896341f;
    const float own = NCPS_POSITIVE(float(sensory_w[at])), kept = float(sensory_mask[at]);
    const float ds2 = float(d_sensory_folded_s2[at]), dm2 = float(d_sensory_folded_m2[at]);
    const float dwe = float(d_sensory_folded_we[at]);
    const float dweight = float(d_sensory_folded_w[at]) + dwe * float(sensory_erev[at]);
    const float sign = kept > 0.0f ? 1.0f : kept < 0.0f ? -1.0f : 0.0f;
    const float reach = float(input_b[i]) - float(sensory_mu[at]);
    gradients[sensory + at] = dweight * ncps_abs(kept) * NCPS_SLOPE(float(sensory_w[at]));
    gradients[sensory + all + at] = (ds2 * float(input_w[i]) + dm2 * reach) * -1.44269504088896341f;
    gradients[sensory + 2u * all + at] = dm2 * -s2;
    gradients[sensory + 3u * all + at] = dwe * (own * ncps_abs(kept));
    gradients[masks + H * H + at] = dweight * own * sign;
    dinput_w += ds2 * s2;
    dinput_b += dm2 * s2;
  } else if (row == H + I) {
    const float dg = float(d_leak_num[j]) * float(vleak[j]) + float(d_leak_den[j]);
    gradients[j] = dg * NCPS_SLOPE(float(gleak[j]));
    gradients[H + j] = float(d_leak_num[j]) * NCPS_POSITIVE(float(gleak[j]));
    gradients[2u * H + j] = float(d_folded_cm[j]) * NCPS_SLOPE(float(cm[j]));
  }
}
dinput_w = simd_sum(dinput_w);
dinput_b = simd_sum(dinput_b);
if (lane == 0u && row >= H && row < H + I) {
  gradients[maps + row - H] = dinput_w;
  gradients[maps + I + row - H] = dinput_b;
}
#undef NCPS_POSITIVE
#undef NCPS_SLOPE
