// CfC recurrence, forward (MATHS 1): all T steps of ROWS batch rows in one threadgroup, so that
// each weight serves ROWS products. The first stage's product with the inputs, its bias included,
// comes from outside.
//
// Stages: LAYERS backbone layers, then the HEADS (3: ff1, ff2, t; 4: ff1, ff2, a, b; 1: ff1 in the
// mode pure) side by side. PARTS neighbouring threads share an output column and split its sum; a
// threadgroup walks over columns in strides of threads / PARTS, the same number of times in each
// thread. Row r of a column belongs to its part r % PARTS. h is double-buffered in threadgroup
// memory as [unit][row], the layers' outputs alternate between two buffers: LAYERS + 1 barriers per
// step. With ON_CHIP all weights move to threadgroup memory first, else they are streamed. Rows
// past the batch repeat the last one and write nothing. Threadgroups are of a multiple of 32
// threads.
//
// With MATRIX the sums come from 8x8 matrices (matrix.h), by way of the buffer's lines that their
// results go to, and of more lines for the other heads; all widths are multiples of 8, PARTS is 4.
// One h is enough then where the heads read a layer.
//
//   sizes      B, T, H, kept_width, weight_count, widths[LAYERS]
//   flag       SAVE                   : what the gradient needs leaves
//   flag       PURE                   : the mode pure
//   flag       ON_CHIP                : the weights move to threadgroup memory
//   flag       DROPOUT                : factors of what the layers give, from the second on
//   flag       DROPS_FIRST            : of what the first gives, too
//   flag       RESETS                 : rows start anew before some steps
//   flag       HOLDS                  : some steps leave a row's state as it is
//   flag       MATRIX                 : sums by simdgroup_matrix
//   int        LAYERS                 : of the backbone
//   int        HEADS                  : 3, 4 or 1, as above
//   int        MODE                   : an NcpsCfcMode
//   int        ACTIVATION             : an NcpsActivation, of the layers
//   int        HEAD_ACTIVATION        : an NcpsActivation, of ff1 and ff2
//   int        ROWS                   : batch rows of a threadgroup
//   int        PARTS                  : threads that share a column: 1, 2 or 4
//   int        UNITS                  : H, rounded up
//   int        WIDTH                  : the widest layer, rounded up
//   int        CHIP                   : weight_count, rounded up; 0 without ON_CHIP
//   in float   xz [B, T, first_width] : the first stage's product with the inputs
//   in float   h0 [B, H]              : the state before the first step
//   in float   biases [bias_count]    : of stages 1 .. LAYERS; not read without one
//   in float   streamed_weights [weight_count] if ON_CHIP : of each stage [depth, columns]
//   in float   weights [weight_count] if not ON_CHIP : the same
//   in float   ts [B, T] if PURE or HEADS == 4 : timespans
//   in float   ts [1] if HEADS == 3   : not read
//   in float   w_tau, A [H] if PURE
//   in float   dropout [B, T, dropped_width] if DROPOUT : of those layers, side by side
//   in float   resets [B, T] if RESETS : not 0 where
//   in float   held [B, T] if HOLDS : not 0 where
//   in float   reset_state [B, H] if RESETS : the state before such a step
//   out float  states [B, T, H]
//   out float  saved [B, T, kept_width] if SAVE : each layer's value or input, F1, F2, g(, a) or f
constexpr int OWN = ROWS > PARTS ? ROWS / PARTS : 1;  // rows of a thread, ROWS < PARTS: or none
#if MATRIX
constexpr int NEXT = LAYERS > 0 ? 0 : HEADS * UNITS;      // lines from one h to the next
constexpr int OUTPUTS = (HEADS + (LAYERS == 0)) * UNITS;  // lines before the layers' outputs
threadgroup float buffer[(HEADS + (LAYERS == 0)) * UNITS + WIDTH + (LAYERS > 1) * WIDTH][ROWS];
#else
constexpr int NEXT = UNITS;
constexpr int OUTPUTS = 2 * UNITS;
threadgroup float buffer[2 * UNITS + 2 * WIDTH][ROWS];  // h twice, the layers' outputs twice
#endif
#if ON_CHIP
threadgroup float weights[CHIP];
#endif
const uint B = uint(sizes[0]), T = uint(sizes[1]), H = uint(sizes[2]), kept_width = uint(sizes[3]);
const uint lane = thread_position_in_threadgroup.x, part = lane % uint(PARTS);
const uint slot = lane / uint(PARTS), slots = threads_per_threadgroup.x / uint(PARTS);
const uint first = threadgroup_position_in_grid.x * uint(ROWS);
const uint first_width = LAYERS > 0 ? uint(sizes[LAYERS > 0 ? 5 : 0]) : uint(HEADS) * H;
#if DROPOUT
const uint whole_width = DROPS_FIRST ? 0u : first_width;  // of a layer without factors
const uint dropped_width = kept_width - uint(HEADS) * H - whole_width;
#endif

#if ON_CHIP
for (uint at = lane; at < uint(sizes[4]); at += threads_per_threadgroup.x) {
  weights[at] = streamed_weights[at];
}
#endif
for (uint j = slot; j < H; j += slots) {
  for (uint r = part; r < uint(ROWS); r += uint(PARTS)) {
    const uint b = first + r < B ? first + r : B - 1u;
#if RESETS
    buffer[j][r] = resets[b * T] != 0.0f ? float(reset_state[b * H + j]) : float(h0[b * H + j]);
#else
    buffer[j][r] = h0[b * H + j];
#endif
  }
}
threadgroup_barrier(mem_flags::mem_threadgroup);

uint now = 0u;
for (uint t = 0u; t < T; ++t) {
  uint weight_at = 0u, bias_at = 0u, kept_at = 0u, depth = H;
  uint from = now * uint(NEXT);  // of the buffer's lines, what a stage reads
  for (int layer = 0; layer < LAYERS; ++layer) {
    const uint columns = uint(sizes[5 + layer]);
    const uint to = uint(OUTPUTS) + uint(layer % 2) * uint(WIDTH);
    for (uint base = 0u; base < columns; base += slots) {
      const uint c = base + slot;
      const bool live = c < columns;
      float sum[ROWS];
#if MATRIX
      if (live) {
        const uint tile = base + slot / 8u * 8u;  // the first column of this SIMD group
        ncps_matrix_sums<ROWS, 1>(sum, &weights[weight_at + tile], columns, 0u, &buffer[from][0],
                                  depth, &buffer[to + tile][0], 0u, lane % 32u);
      }
#else
      const uint column = live ? c : 0u;
      NCPS_UNROLL
      for (int r = 0; r < ROWS; ++r) sum[r] = 0.0f;
      for (uint i = part; i < depth; i += uint(PARTS)) {
        const float w = weights[weight_at + i * columns + column];
        NCPS_UNROLL
        for (int r = 0; r < ROWS; ++r) sum[r] += w * buffer[from + i][r];
      }
      NCPS_SHARE_ROWS(sum)
#endif
      NCPS_UNROLL
      for (int q = 0; q < OWN; ++q) {
        const uint r = uint(q * PARTS) + part;
        if (live && r < uint(ROWS)) {
          const bool real = first + r < B;
          const uint row = (real ? first + r : B - 1u) * T + t;
          float z = sum[q];
          if (layer == 0) {
            z += xz[row * first_width + c];
          } else {
            z += biases[bias_at + c];
          }
          const float value = ncps_activation<ACTIVATION>(z);
#if DROPOUT
          const bool drops = DROPS_FIRST || layer > 0;
          const uint factor_at = row * dropped_width + kept_at - whole_width + c;
          buffer[to + c][r] = drops ? value * dropout[factor_at] : value;
#else
          buffer[to + c][r] = value;
#endif
#if SAVE
          if (real) {
            saved[row * kept_width + kept_at + c] = ncps_slope_from_value<ACTIVATION>() ? value : z;
          }
#endif
        }
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    weight_at += depth * columns;
    bias_at += layer == 0 ? 0u : columns;
    kept_at += columns;
    depth = columns;
    from = to;
  }

  for (uint base = 0u; base < H; base += slots) {
    const uint j = base + slot;
    const bool live = j < H;
    float sum[HEADS][ROWS];
#if MATRIX
    if (live) {
      const uint tile = base + slot / 8u * 8u, to = LAYERS > 0 ? 0u : (1u - now) * uint(UNITS);
      ncps_matrix_sums<ROWS, HEADS>(&sum[0][0], &weights[weight_at + tile], uint(HEADS) * H, H,
                                    &buffer[from][0], depth, &buffer[to + tile][0], uint(UNITS),
                                    lane % 32u);
    }
#else
    NCPS_UNROLL
    for (int head = 0; head < HEADS; ++head) {
      NCPS_UNROLL
      for (int r = 0; r < ROWS; ++r) sum[head][r] = 0.0f;
    }
    for (uint i = part; i < depth; i += uint(PARTS)) {
      float w[HEADS];
      NCPS_UNROLL
      for (int head = 0; head < HEADS; ++head) {
        w[head] = weights[weight_at + (i * uint(HEADS) + uint(head)) * H + (live ? j : 0u)];
      }
      NCPS_UNROLL
      for (int r = 0; r < ROWS; ++r) {
        const float in = buffer[from + i][r];
        NCPS_UNROLL
        for (int head = 0; head < HEADS; ++head) sum[head][r] += w[head] * in;
      }
    }
    NCPS_UNROLL
    for (int head = 0; head < HEADS; ++head) {
      NCPS_SHARE_ROWS(sum[head])
    }
#endif
    NCPS_UNROLL
    for (int q = 0; q < OWN; ++q) {
      const uint r = uint(q * PARTS) + part;
      if (live && r < uint(ROWS)) {
        const bool real = first + r < B;
        const uint row = (real ? first + r : B - 1u) * T + t;
        float z[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        NCPS_UNROLL
        for (int head = 0; head < HEADS; ++head) {
          const uint column = uint(head) * H + j;
          z[head] = sum[head][q];
          if (LAYERS == 0) {
            z[head] += xz[row * first_width + column];
          } else {
            z[head] += biases[bias_at + column];
          }
        }
        float h = 0.0f;
#if PURE
        h = cfc_pure(z[0], float(w_tau[j]), float(A[j]), float(ts[row]));
#else
        z[0] = ncps_activation<HEAD_ACTIVATION>(z[0]);
        z[1] = ncps_activation<HEAD_ACTIVATION>(z[1]);
        const float u = HEADS == 4 ? z[2] * ts[HEADS == 4 ? row : 0u] + z[3] : z[2];
        z[3] = z[2];
        z[2] = ncps_sigmoid(u);
        h = cfc_blend<MODE>(z[0], z[1], z[2]);
#endif
#if HOLDS
        if (real && held[row] != 0.0f) {
          h = t > 0u ? float(states[(row - 1u) * H + j]) : float(h0[(first + r) * H + j]);
#if RESETS
          if (resets[row] != 0.0f) h = reset_state[(first + r) * H + j];
#endif
        }
#endif
        float read = h;  // by the next step
#if RESETS
        if (t + 1u < T && resets[row + 1u] != 0.0f) {
          read = reset_state[(real ? first + r : B - 1u) * H + j];
        }
#endif
        buffer[(1u - now) * uint(NEXT) + j][r] = read;
        if (real) {
          states[row * H + j] = h;
#if SAVE
          NCPS_UNROLL
          for (int head = 0; head < HEADS; ++head) {
            saved[row * kept_width + kept_at + uint(head) * H + j] = z[head];
          }
#endif
        }
      }
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  now = 1u - now;
}
