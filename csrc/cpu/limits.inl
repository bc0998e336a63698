// Two loops that do nothing but the arithmetic of the kernels, on values that stay in L1 and
// registers: what the benchmarks call the vector limit.

constexpr long LIMIT_BLOCK = 8;  // independent chains, enough to hide the latency of each step

// `rounds` times LIMIT_BLOCK vectors of gates 1 / (1 + exp2(s2 v + m2)), each with the two
// multiply-adds that a synapse costs.
static float run_gates(long rounds) {
  float values[3 * LIMIT_BLOCK * W];
  for (long i = 0; i < 3 * LIMIT_BLOCK * W; ++i) values[i] = 0.01f * float(i % 100) - 0.5f;
  vf n[LIMIT_BLOCK], d[LIMIT_BLOCK];
  for (long c = 0; c < LIMIT_BLOCK; ++c) n[c] = d[c] = vf{};
  for (long round = 0; round < rounds; ++round) {
    const vf v = splat(values[round % W]);
    for (long c = 0; c < LIMIT_BLOCK; ++c) {
      const vf s2 = load(values + c * W), w = load(values + (LIMIT_BLOCK + c) * W);
      const vf gate = ltc_gate(v, s2, w);
      n[c] += gate * s2;
      d[c] += gate * w;
    }
  }
  vf sum = vf{};
  for (long c = 0; c < LIMIT_BLOCK; ++c) sum += n[c] + d[c];
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
