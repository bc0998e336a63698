// Two loops that do nothing but the arithmetic of the kernels, on values that stay in L1 and
// registers: what the benchmarks call the vector limit.
#pragma once

#include "csrc/cpu/ltc_dense.inl"

namespace mlx_ncps {
namespace {

constexpr long LIMIT_BLOCK = 8;  // independent chains, enough to hide the latency of each step

// `rounds` times LIMIT_BLOCK vectors of gates 1 / (1 + exp2(s2 v + m2)), each with the two
// multiply-adds that a synapse costs; in the order of accumulate_synapses.
static float run_gates(long rounds) {
  float values[4 * W];
  for (long i = 0; i < 4 * W; ++i) values[i] = 0.01f * float(i % 100) - 0.5f;
  const vf s2 = load(values), m2 = load(values + W), w = load(values + 2 * W),
           we = load(values + 3 * W);
  vf n[LTC_ROWS], d[LTC_ROWS], gate[LTC_ROWS], next[LTC_ROWS];
  const auto gates = [&](long round) {
    for (int r = 0; r < LTC_ROWS; ++r) next[r] = ltc_gate(splat(values[round % W + r]), s2, m2);
  };
  for (int r = 0; r < LTC_ROWS; ++r) n[r] = d[r] = vf{};
  gates(0);
  for (long round = 0; round < rounds * LIMIT_BLOCK / LTC_ROWS; ++round) {
    if (!GATES_AHEAD) gates(round);
    for (int r = 0; r < LTC_ROWS; ++r) gate[r] = next[r];
    if (GATES_AHEAD) gates(round + 1);
    for (int r = 0; r < LTC_ROWS; ++r) d[r] += gate[r] * w, n[r] += gate[r] * we;
  }
  vf sum = vf{};
  for (int r = 0; r < LTC_ROWS; ++r) sum += n[r] + d[r];
  return horizontal_sum(sum);
}

// `rounds` times LIMIT_BLOCK vectors of multiply-adds.
static float run_multiply_adds(long rounds) {
  vf sum[LIMIT_BLOCK];
  for (long c = 0; c < LIMIT_BLOCK; ++c) sum[c] = splat(0.001f * float(c));
  const vf a = splat(0.9999f), b = splat(1e-4f);
  for (long round = 0; round < rounds; ++round)
    for (long c = 0; c < LIMIT_BLOCK; ++c) sum[c] = sum[c] * a + b;
  vf total = vf{};
  for (long c = 0; c < LIMIT_BLOCK; ++c) total += sum[c];
  return horizontal_sum(total);
}

}  // namespace
}  // namespace mlx_ncps
