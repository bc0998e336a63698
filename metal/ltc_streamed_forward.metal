// LTC recurrence, forward, dense, any H (MATHS 3): all T steps and U unfolds of ROWS batch rows in
// one threadgroup, so that each synapse streamed from memory serves ROWS gates.
//
// PARTS neighbouring threads share a target; a threadgroup walks over the targets in strides of
// threads / PARTS, the same number of times in each thread. v is double-buffered in threadgroup
// memory as [unit][row]: one barrier per unfold. Row r of a target belongs to its part r % PARTS.
// Rows past the batch repeat the last one and write nothing. Threadgroups are of a multiple of 32
// threads.
//
//   sizes      B, T, U, H
//   flag       SAVE                          : what the gradient needs leaves
//   int        ROWS                          : batch rows of a threadgroup
//   int        PARTS                         : threads that share a target: 1, 2 or 4
//   int        UNITS                         : H, rounded up
//   in float   num, den [B, T, H]            : sums over the inputs, with the leak
//   in float   v0 [B, H]                     : potentials before the first step
//   in float   ts [B, T]                     : timespans
//   in float   cm [H]
//   in float   synapse_s2, synapse_m2, synapse_w, synapse_we [H, H]
//   out float  states [B, T, H]              : potentials after each step
//   out float  saved [B, T, U, 2, H] if SAVE : n and d of every unfold
threadgroup float v_buffer[2][UNITS * ROWS];
const uint B = uint(sizes[0]), T = uint(sizes[1]), U = uint(sizes[2]), H = uint(sizes[3]);
const uint lane = thread_position_in_threadgroup.x, part = lane % uint(PARTS);
const uint slot = lane / uint(PARTS), slots = threads_per_threadgroup.x / uint(PARTS);
const uint first = threadgroup_position_in_grid.x * uint(ROWS);

uint batch[ROWS];
bool mine[ROWS];
NCPS_UNROLL
for (int r = 0; r < ROWS; ++r) {
  batch[r] = first + uint(r) < B ? first + uint(r) : B - 1u;
  mine[r] = uint(r) % uint(PARTS) == part;
}
for (uint j = slot; j < H; j += slots) {
  NCPS_UNROLL
  for (int r = 0; r < ROWS; ++r) {
    if (mine[r]) v_buffer[0][j * uint(ROWS) + uint(r)] = v0[batch[r] * H + j];
  }
}
threadgroup_barrier(mem_flags::mem_threadgroup);

uint now = 0u;
for (uint t = 0u; t < T; ++t) {
  float k[ROWS];
  NCPS_UNROLL
  for (int r = 0; r < ROWS; ++r) k[r] = float(ts[batch[r] * T + t]) / float(U);
  for (uint u = 0u; u < U; ++u) {
    for (uint base = 0u; base < H; base += slots) {
      const uint j = base + slot;
      const bool live = j < H;
      const uint target = live ? j : 0u;
      float n[ROWS], d[ROWS];
      NCPS_UNROLL
      for (int r = 0; r < ROWS; ++r) n[r] = d[r] = 0.0f;
      for (uint i = part; i < H; i += uint(PARTS)) {
        const uint at = i * H + target;
        const float s2 = synapse_s2[at], m2 = synapse_m2[at];
        const float w = synapse_w[at], we = synapse_we[at];
        NCPS_UNROLL
        for (int r = 0; r < ROWS; ++r) {
          const float gate = ltc_gate(v_buffer[now][i * uint(ROWS) + uint(r)], s2, m2);
          n[r] += gate * we;
          d[r] += gate * w;
        }
      }
      NCPS_UNROLL
      for (int r = 0; r < ROWS; ++r) {
        if (PARTS > 1) n[r] += simd_shuffle_xor(n[r], ushort(1));
        if (PARTS > 1) d[r] += simd_shuffle_xor(d[r], ushort(1));
        if (PARTS > 2) n[r] += simd_shuffle_xor(n[r], ushort(2));
        if (PARTS > 2) d[r] += simd_shuffle_xor(d[r], ushort(2));
      }
      NCPS_UNROLL
      for (int r = 0; r < ROWS; ++r) {
        if (live && mine[r]) {
          const uint row = batch[r] * T + t, cell = j * uint(ROWS) + uint(r);
          n[r] += num[row * H + j];
          d[r] += den[row * H + j];
          const float v = ltc_update(float(v_buffer[now][cell]), n[r], d[r], float(cm[j]), k[r]);
          v_buffer[1u - now][cell] = v;
          if (first + uint(r) < B) {
#if SAVE
            const uint at = 2u * (row * U + u) * H + j;
            saved[at] = n[r];
            saved[at + H] = d[r];
#endif
            if (u == U - 1u) states[row * H + j] = v;
          }
        }
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    now = 1u - now;
  }
}
