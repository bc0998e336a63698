// Factors of dropout from the bits that MLX's generator gives for a key: Threefry-2x32 of 20 rounds
// (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). Of n values, the pair of
// counters (i, half + i) gives the bits of values i and half + i, for half = ceil(n / 2); where n
// is odd the second counter of the last pair is 0, and its second value is left out.
#pragma once

#include "csrc/cpu/memory.inl"

namespace mlx_ncps {
namespace {

constexpr int STREAMS = 4;  // vectors at a time, whose rounds hide each other's latency

template <int BITS>
static inline vu rotate(vu x) {
  return x << BITS | x >> (32 - BITS);
}

template <int A, int B, int C, int D>
static inline void four_rounds(vu (&x)[STREAMS], vu (&y)[STREAMS], unsigned add_x, unsigned add_y) {
  for (int i = 0; i < STREAMS; ++i) {
    x[i] += y[i], y[i] = rotate<A>(y[i]) ^ x[i];
    x[i] += y[i], y[i] = rotate<B>(y[i]) ^ x[i];
    x[i] += y[i], y[i] = rotate<C>(y[i]) ^ x[i];
    x[i] += y[i], y[i] = rotate<D>(y[i]) ^ x[i];
    x[i] += add_x, y[i] += add_y;
  }
}

// Random bits of the counters x, y, in their place.
static inline void threefry(const unsigned* key, vu (&x)[STREAMS], vu (&y)[STREAMS]) {
  const unsigned a = key[0], b = key[1], c = a ^ b ^ 0x1bd11bdau;
  for (int i = 0; i < STREAMS; ++i) x[i] += a, y[i] += b;
  four_rounds<13, 15, 26, 6>(x, y, b, c + 1);
  four_rounds<17, 29, 16, 24>(x, y, c, a + 2);
  four_rounds<13, 15, 26, 6>(x, y, a, b + 3);
  four_rounds<17, 29, 16, 24>(x, y, b, c + 4);
  four_rounds<13, 15, 26, 6>(x, y, c, a + 5);
}

// Values first .. end of the lower half and those that their counters give beside them.
static void draw_pairs(const FactorsProblem& p, long half, long first, long end) {
  const vf none = vf{}, kept = splat(p.factor);
  const unsigned last = unsigned(p.limit - 1);
  vu lane;
  for (long i = 0; i < W; ++i) lane[i] = unsigned(i);
  for (long at = first; at < end; at += STREAMS * W) {
    vu x[STREAMS], y[STREAMS];
    for (int i = 0; i < STREAMS; ++i) {
      x[i] = lane + unsigned(at + i * W), y[i] = x[i] + unsigned(half);
      if (p.n % 2) y[i] = x[i] == unsigned(half - 1) ? vu{} : y[i];
    }
    threefry(p.key, x, y);
    for (int i = 0; i < STREAMS; ++i) {
      const long q = at + i * W, lower = end - q, upper = min_of(lower, p.n - half - q);
      const auto factor = [&](vu bits) {
        return p.limit > 0 ? ncps_select((vi)(bits <= last), kept, none) : none;
      };
      if (lower > 0) store_partial(p.out + q, factor(x[i]), lower);
      if (upper > 0) store_partial(p.out + half + q, factor(y[i]), upper);
    }
  }
}

static void draw_factors(const FactorsProblem& p) {
  const long half = (p.n + 1) / 2,
             share =
                 round_up(half / share_work(half * 16 / W, parallel_threads()) + 1, STREAMS * W);
  auto body = [&](long task) {
    draw_pairs(p, half, task * share, min_of(half, (task + 1) * share));
  };
  parallel((half + share - 1) / share, body);
}

}  // namespace
}  // namespace mlx_ncps
