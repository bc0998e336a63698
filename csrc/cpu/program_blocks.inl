// Instructions of step programs over one axis of [outer][mid][inner]: sums, their counterpart,
// which repeats, and softmax. Axes of a few elements, a power of two, stay side by side in a
// vector.
#pragma once

#include "csrc/cpu/activation.inl"
#include "csrc/cpu/formulas.inl"
#include "csrc/cpu/memory.inl"

namespace mlx_ncps {
namespace {

using Lanes = std::make_integer_sequence<int, W>;

template <int D, int... LANE>
static inline vf lanes_apart(vf a, std::integer_sequence<int, LANE...>) {
  return __builtin_shufflevector(a, a, (LANE ^ D)...);
}
// join of each lane with those of its N neighbours, N a power of two: the same in all of them.
template <int N, typename Join>
static inline vf join_lanes(vf a, Join join) {
  if constexpr (N > 1) {
    a = join_lanes<N / 2>(a, join);
    return join(a, lanes_apart<N / 2>(a, Lanes{}));
  }
  return a;
}
template <int N>
static inline vf sum_lanes(vf a) {
  return join_lanes<N>(a, [](vf x, vf y) { return x + y; });
}
static inline vf larger(vf x, vf y) { return (x > y) | (x != x) ? x : y; }  // NaN stays
template <int N>
static inline vf largest_lane(vf a) {
  return join_lanes<N>(a, larger);
}

// The sums of lanes a multiple of N apart, in the first N lanes.
template <int N, int D = W / 2>
static inline vf fold_lanes(vf a) {
  if constexpr (D < N)
    return a;
  else
    return fold_lanes<N, D / 2>(a + lanes_apart<D>(a, Lanes{}));
}

template <int... LANE>
static inline vf pair_sums(vf a, vf b, std::integer_sequence<int, LANE...>) {
  return __builtin_shufflevector(a, b, (2 * LANE)...) +
         __builtin_shufflevector(a, b, (2 * LANE + 1)...);
}
// W sums of N numbers each that lie one after the other.
template <int N>
static inline vf sums_of(const float* in) {
  if constexpr (N == 1)
    return load(in);
  else
    return pair_sums(sums_of<N / 2>(in), sums_of<N / 2>(in + N / 2 * W), Lanes{});
}

// Lanes from K W / N on, N times each.
template <int N, int K, int... LANE>
static inline vf repeated(vf a, std::integer_sequence<int, LANE...>) {
  return __builtin_shufflevector(a, a, ((K * int(W) + LANE) / N)...);
}
// The first N lanes again and again.
template <int N, int... LANE>
static inline vf tiled(vf a, std::integer_sequence<int, LANE...>) {
  return __builtin_shufflevector(a, a, (LANE % N)...);
}

// f(Constant<n>) for n = 2, 4, ... W; else(): for other n.
template <typename F, typename Else>
static inline void with_short(long n, F f, Else other) {
  if (n == 2) return f(Constant<2>{});
  if (n == 4) return f(Constant<4>{});
  if (n == 8 && W >= 8) return f(Constant<W >= 8 ? 8 : 2>{});
  if (n == 16 && W >= 16) return f(Constant<W >= 16 ? 16 : 2>{});
  other();
}

template <bool ADD>
static inline void put(float* to, vf value) {
  store(to, ADD ? load(to) + value : value);
}

// to [W][N] (+)= each lane N times.
template <bool ADD, int N, int... K>
static inline void put_repeated(vf a, float* to, std::integer_sequence<int, K...>) {
  (put<ADD>(to + K * W, repeated<N, K>(a, Lanes{})), ...);
}

// out [outer] (+)= the sums of in [outer][mid].
template <bool ADD>
static void sum_rows(const float* in, float* out, long outer, long mid) {
  long o = 0;
  const auto by_vectors = [&](auto n) {
    for (; o + W <= outer; o += W) put<ADD>(out + o, sums_of<decltype(n)::value>(in + o * mid));
  };
  with_short(mid, by_vectors, [] {});
  for (; o < outer; ++o) {
    vf sum = vf{};
    for (long q = 0; q < mid; q += W) sum += load_partial(in + o * mid + q, mid - q);
    const float all = sum_lanes<W>(sum)[0];
    out[o] = ADD ? out[o] + all : all;
  }
}

// out [outer][inner] (+)= the sums of in [outer][mid][inner] over mid.
template <bool ADD>
static void reduce_blocks(const float* in, float* out, long outer, long mid, long inner) {
  if (inner == 1) return sum_rows<ADD>(in, out, outer, mid);
  const auto plain = [&] {
    for (long o = 0; o < outer; ++o, in += mid * inner, out += inner) {
      if (!ADD) copy(out, in, inner);
      for (long j = ADD ? 0 : 1; j < mid; ++j) add_to(out, in + j * inner, inner);
    }
  };
  if (mid * inner % W) return plain();
  const auto in_lanes = [&](auto n) {
    constexpr int N = decltype(n)::value;
    for (long o = 0; o < outer; ++o, in += mid * N, out += N) {
      vf sum = vf{};
      for (long q = 0; q < mid * N; q += W) sum += load(in + q);
      sum = fold_lanes<N>(sum);
      store_partial(out, ADD ? load_partial(out, N) + sum : sum, N);
    }
  };
  with_short(inner, in_lanes, plain);
}

// out [outer][mid][inner] (+)= in [outer][inner], for each of mid.
template <bool ADD>
static void expand_blocks(const float* in, float* out, long outer, long mid, long inner) {
  if (inner > 1) {
    const auto plain = [&] {
      for (long o = 0; o < outer; ++o, in += inner)
        for (long j = 0; j < mid; ++j, out += inner)
          ADD ? add_to(out, in, inner) : copy(out, in, inner);
    };
    const auto in_lanes = [&](auto n) {
      constexpr int N = decltype(n)::value;
      for (long o = 0; o < outer; ++o, in += N, out += mid * N) {
        const vf tile = tiled<N>(load_partial(in, N), Lanes{});
        for (long q = 0; q < mid * N; q += W) put<ADD>(out + q, tile);
      }
    };
    if (mid * inner % W) return plain();
    return with_short(inner, in_lanes, plain);
  }
  long o = 0;
  const auto by_vectors = [&](auto n) {
    constexpr int N = decltype(n)::value;
    for (; o + W <= outer; o += W)
      put_repeated<ADD, N>(load(in + o), out + o * N, std::make_integer_sequence<int, N>{});
  };
  with_short(mid, by_vectors, [] {});
  for (; o < outer; ++o) {
    float* to = out + o * mid;
    for (long j = 0; j < mid; ++j) to[j] = ADD ? to[j] + in[o] : in[o];
  }
}

// out = softmax(in), both [outer][n], over the last axis.
static void softmax_rows(const float* in, float* out, long outer, long n) {
  const auto in_lanes = [&](auto number) {
    constexpr int N = decltype(number)::value;
    for (long q = 0; q < outer * n; q += W) {
      const vf x = load(in + q), e = ncps_exp(x - largest_lane<N>(x));
      store(out + q, e / sum_lanes<N>(e));
    }
  };
  const auto by_rows = [&] {
    const vf least = splat(-__builtin_inff());
    for (long o = 0; o < outer; ++o, in += n, out += n) {
      vf most = least, sum = vf{};
      for (long q = 0; q < n; q += W)
        most = larger(load_partial(in + q, n - q, -__builtin_inff()), most);
      most = largest_lane<W>(most);
      for (long q = 0; q < n; q += W) {
        const vf e = ncps_exp(load_partial(in + q, n - q, -__builtin_inff()) - most);
        store_partial(out + q, e, n - q);
        sum += e;
      }
      sum = sum_lanes<W>(sum);
      for (long q = 0; q < n; q += W)
        store_partial(out + q, load_partial(out + q, n - q) / sum, n - q);
    }
  };
  with_short(n, in_lanes, by_rows);
}

// din += y (dy - sum(y dy)), all [outer][n].
static void softmax_rows_backward(const float* y, const float* dy, float* din, long outer, long n) {
  const auto in_lanes = [&](auto number) {
    constexpr int N = decltype(number)::value;
    for (long q = 0; q < outer * n; q += W) {
      const vf Y = load(y + q), D = load(dy + q);
      put<true>(din + q, Y * (D - sum_lanes<N>(Y * D)));
    }
  };
  const auto by_rows = [&] {
    for (long o = 0; o < outer; ++o, din += n, y += n, dy += n) {
      vf sum = vf{};
      for (long q = 0; q < n; q += W)
        sum += load_partial(y + q, n - q) * load_partial(dy + q, n - q);
      sum = sum_lanes<W>(sum);
      for (long q = 0; q < n; q += W) {
        const long live = n - q;
        const vf slope = load_partial(y + q, live) * (load_partial(dy + q, live) - sum);
        store_partial(din + q, load_partial(din + q, live) + slope, live);
      }
    }
  };
  with_short(n, in_lanes, by_rows);
}

}  // namespace
}  // namespace mlx_ncps
