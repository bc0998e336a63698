// CfC recurrence, backward (MATHS 1), the twin of cfc_forward.metal: carries dL/dh from the end
// over T and gives the gradients of every stage's pre-activations, from which matrix products over
// the whole sequence make those of the weights.
//
// As in the forward, PARTS neighbouring threads share a column of what a stage reads, and row r of
// a column belongs to its part r % PARTS, dL/dh too. The gradients of one step's pre-activations
// stand in threadgroup memory as [column][row]: LAYERS + 2 barriers per step. With ON_CHIP all
// weights move to threadgroup memory first, else they are streamed. Rows past the batch repeat the
// last one and write nothing. Threadgroups are of a multiple of 32 threads. With MATRIX the sums
// come from 8x8 matrices, as in the forward.
//
//   sizes      B, T, H, kept_width, weight_count, widths[LAYERS]
//   flag       PURE                        : the mode pure
//   flag       ON_CHIP                     : the weights move to threadgroup memory
//   flag       DROPOUT                     : factors of what the layers give, from the second on
//   flag       DROPS_FIRST                 : of what the first gives, too
//   flag       RESETS                      : rows start anew before some steps
//   flag       HOLDS                       : some steps leave a row's state as it is
//   flag       MATRIX                      : sums by simdgroup_matrix
//   int        LAYERS                      : of the backbone
//   int        HEADS                       : 3, 4 or 1, as in the forward
//   int        MODE                        : an NcpsCfcMode
//   int        ACTIVATION                  : an NcpsActivation, of the layers
//   int        HEAD_ACTIVATION             : an NcpsActivation, of ff1 and ff2
//   int        ROWS                        : batch rows of a threadgroup
//   int        PARTS                       : threads that share a column: 1, 2 or 4
//   int        UNITS                       : H, rounded up
//   int        WIDTH                       : the widest layer, rounded up
//   int        CHIP                        : weight_count, rounded up; 0 without ON_CHIP
//   in float   dstates [B, T, H]           : dL/dh of each step's state
//   in float   saved [B, T, kept_width]    : of the forward
//   in float   streamed_weights [weight_count] if ON_CHIP : of each stage [columns, depth]
//   in float   weights [weight_count] if not ON_CHIP : the same
//   in float   ts [B, T] if PURE or HEADS == 4 : timespans
//   in float   ts [1] if HEADS == 3        : not read
//   in float   w_tau, A [H] if PURE
//   in float   dropout [B, T, dropped_width] if DROPOUT : of the forward
//   in float   resets [B, T] if RESETS     : of the forward
//   in float   held [B, T] if HOLDS        : of the forward
//   out float  dh0 [B, H]                  : dL/dh before the first step
//   out float  dz [B, T, kept_width]       : of the layers, then of the heads
//   out float  shares [B, T, 3, H] if PURE : of dw_tau, dA, dts
//   out float  dreset_state [B, H] if RESETS
constexpr int OWN = ROWS > PARTS ? ROWS / PARTS : 1;  // rows of a thread, ROWS < PARTS: or none
threadgroup float buffer[UNITS + HEADS * UNITS + 2 * WIDTH][ROWS];  // dL/dh, of heads, of layers
#if ON_CHIP
threadgroup float weights[CHIP];
#endif
const uint B = uint(sizes[0]), T = uint(sizes[1]), H = uint(sizes[2]), kept_width = uint(sizes[3]);
const uint lane = thread_position_in_threadgroup.x, part = lane % uint(PARTS);
const uint slot = lane / uint(PARTS), slots = threads_per_threadgroup.x / uint(PARTS);
const uint first = threadgroup_position_in_grid.x * uint(ROWS);

uint weights_end = 0u, layers_width = 0u;
for (int layer = 0; layer < LAYERS; ++layer) {
  weights_end += (layer == 0 ? H : uint(sizes[4 + layer])) * uint(sizes[5 + layer]);
  layers_width += uint(sizes[5 + layer]);
}
#if DROPOUT
const uint whole_width = DROPS_FIRST ? 0u : uint(sizes[5]);  // of a layer without factors
const uint dropped_width = layers_width - whole_width;
#endif
#if ON_CHIP
for (uint at = lane; at < uint(sizes[4]); at += threads_per_threadgroup.x) {
  weights[at] = streamed_weights[at];  // first read after the heads' barrier
}
#endif
for (uint j = slot; j < H; j += slots) {
  for (uint r = part; r < uint(ROWS); r += uint(PARTS)) {
    buffer[j][r] = 0.0f;
#if RESETS
    if (first + r < B) dreset_state[(first + r) * H + j] = 0.0f;
#endif
  }
}

for (uint t = T; t-- > 0u;) {
  for (uint j = slot; j < H; j += slots) {
    NCPS_UNROLL
    for (int q = 0; q < OWN; ++q) {
      const uint r = uint(q * PARTS) + part;
      if (r < uint(ROWS)) {
        const bool real = first + r < B;
        const uint row = (real ? first + r : B - 1u) * T + t;
        const uint kept = row * kept_width + layers_width;
        float dh = buffer[j][r] + dstates[row * H + j];
#if HOLDS
        const bool holds = held[row] != 0.0f;
        if (real && holds) dh0[(first + r) * H + j] = dh;  // kept for the end of the step
        if (holds) dh = 0.0f;
#endif
        float d[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#if PURE
        const CfcPureGradient<float> g = cfc_pure_backward(
            dh, float(saved[kept + j]), float(w_tau[j]), float(A[j]), float(ts[row]));
        d[0] = g.df;
        if (real) {
          shares[row * 3u * H + j] = g.dw_tau;
          shares[(row * 3u + 1u) * H + j] = g.dA;
          shares[(row * 3u + 2u) * H + j] = g.dts;
        }
#else
        const CfcBlendGradient<float> g = cfc_blend_backward<MODE, HEAD_ACTIVATION>(
            dh, float(saved[kept + j]), float(saved[kept + H + j]),
            float(saved[kept + 2u * H + j]));
        d[0] = g.df1;
        d[1] = g.df2;
        d[2] = HEADS == 4 ? g.du * ts[HEADS == 4 ? row : 0u] : g.du;
        d[3] = g.du;
#endif
        NCPS_UNROLL
        for (int head = 0; head < HEADS; ++head) {
          const uint column = uint(head) * H + j;
          buffer[uint(UNITS) + column][r] = d[head];
          if (real) dz[kept + column] = d[head];
        }
      }
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);

  uint weight_at = weights_end, kept_at = layers_width, columns = uint(HEADS) * H;
  uint from = uint(UNITS);  // of the buffer's lines, what a stage reads
  for (int stage = LAYERS; stage >= 0; --stage) {
    const uint depth = stage == 0 ? H : uint(sizes[4 + stage]);
    const uint to = stage == 0 ? 0u : uint(UNITS + HEADS * UNITS) + uint(stage % 2) * uint(WIDTH);
    if (stage > 0) kept_at -= depth;
    for (uint base = 0u; base < depth; base += slots) {
      const uint i = base + slot;
      const bool live = i < depth;
      float sum[ROWS];
#if MATRIX
      if (live) {
        const uint tile = base + slot / 8u * 8u;  // the first column of this SIMD group
        ncps_matrix_sums<ROWS, 1>(sum, &weights[weight_at + tile], depth, 0u, &buffer[from][0],
                                  columns, &buffer[to + tile][0], 0u, lane % 32u);
      }
#else
      NCPS_UNROLL
      for (int r = 0; r < ROWS; ++r) sum[r] = 0.0f;
      for (uint c = part; c < columns; c += uint(PARTS)) {
        const float w = weights[weight_at + c * depth + (live ? i : 0u)];
        NCPS_UNROLL
        for (int r = 0; r < ROWS; ++r) sum[r] += w * buffer[from + c][r];
      }
      NCPS_SHARE_ROWS(sum)
#endif
      NCPS_UNROLL
      for (int q = 0; q < OWN; ++q) {
        const uint r = uint(q * PARTS) + part;
        if (live && r < uint(ROWS)) {
          const bool real = first + r < B;
          const uint row = (real ? first + r : B - 1u) * T + t;
          float d = sum[q];
          if (stage > 0) {
            const uint at = row * kept_width + kept_at + i;
            d *= ncps_activation_slope<ACTIVATION>(float(saved[at]));
#if DROPOUT
            const uint factor_at = row * dropped_width + kept_at - whole_width + i;
            if (DROPS_FIRST || stage > 1) d *= dropout[factor_at];
#endif
            if (real) dz[at] = d;
          }
#if HOLDS
          if (stage == 0 && real && held[row] != 0.0f) d = dh0[(first + r) * H + i];
#endif
#if RESETS
          if (stage == 0 && resets[row] != 0.0f) {
            if (real) dreset_state[(first + r) * H + i] += d;
            d = 0.0f;
          }
#endif
          buffer[to + i][r] = d;
        }
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    weight_at -= stage > 0 ? depth * (stage == 1 ? H : uint(sizes[3 + stage])) : 0u;
    columns = depth;
    from = to;
  }
}
for (uint j = slot; j < H; j += slots) {
  for (uint r = part; r < uint(ROWS); r += uint(PARTS)) {
    if (first + r < B) dh0[(first + r) * H + j] = buffer[j][r];
  }
}
