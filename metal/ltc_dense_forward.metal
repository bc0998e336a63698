// LTC recurrence, forward, with the synapses in registers (MATHS 3): dense, H <= 64, or LISTS, the
// few synapses of a sparse wiring; all T steps and U unfolds of one batch row in one threadgroup.
//
// PARTS threads share a target j; each keeps its PER synapses part + q PARTS in registers for the
// whole sequence: of source i = part + q PARTS, or with LISTS the target's own, padded to PER PARTS
// with w = we = 0. v is double-buffered in threadgroup memory: one barrier per unfold. Padding
// targets compute and write nothing. One threadgroup per row, of a multiple of 32 threads, >= PARTS
// H.
//
//   sizes      T, U, H
//   flag       SAVE                          : what the gradient needs leaves
//   flag       LISTS                         : the synapses of a wiring's lists alone
//   int        PER                           : synapses of a thread
//   int        PARTS                         : threads that share a target: 4
//   int        UNITS                         : H; without LISTS rounded up, PER PARTS
//   in float   num, den [B, T, H]            : sums over the inputs, with the leak
//   in float   v0 [B, H]                     : potentials before the first step
//   in float   ts [B, T]                     : timespans
//   in float   cm [H]
//   in float   synapse_s2, synapse_m2, synapse_w, synapse_we [H, H] if not LISTS
//   in float   synapse_s2, synapse_m2, synapse_w, synapse_we [H, PER * PARTS] if LISTS
//   in int     sources [H, PER * PARTS] if LISTS : of the targets' synapses
//   out float  states [B, T, H]              : potentials after each step
//   out float  saved [B, T, U, 2, H] if SAVE : n and d of every unfold
#if LISTS
threadgroup float v_buffer[2][UNITS];
#define NCPS_V(at, i) v_buffer[at][i]
#else
threadgroup float v_buffer[2][PARTS][PER];  // a thread's sources side by side
#define NCPS_V(at, i) v_buffer[at][(i) % uint(PARTS)][(i) / uint(PARTS)]
#endif
const uint T = uint(sizes[0]), U = uint(sizes[1]), H = uint(sizes[2]);
const uint lane = thread_position_in_threadgroup.x, b = threadgroup_position_in_grid.x;
const uint part = lane % uint(PARTS), j = lane / uint(PARTS);
const bool live = j < H, writes = live && part == 0u;

float s2[PER], m2[PER], w[PER], we[PER];
#if LISTS
uint source[PER];
#endif
NCPS_UNROLL
for (int q = 0; q < PER; ++q) {
  const uint i = part + uint(q * PARTS);
#if LISTS
  const bool on = live;
  const uint at = on ? j * uint(PER * PARTS) + i : 0u;
  source[q] = uint(sources[at]);
#else
  const bool on = live && i < H;
  const uint at = on ? i * H + j : 0u;
#endif
  s2[q] = on ? float(synapse_s2[at]) : 0.0f;
  m2[q] = on ? float(synapse_m2[at]) : 0.0f;
  w[q] = on ? float(synapse_w[at]) : 0.0f;
  we[q] = on ? float(synapse_we[at]) : 0.0f;
}
const float cm_j = live ? float(cm[j]) : 1.0f;
float v = live ? float(v0[b * H + j]) : 0.0f;
if (part == 0u && j < uint(UNITS)) {
  NCPS_V(0, j) = v;
  NCPS_V(1, j) = 0.0f;
}
threadgroup_barrier(mem_flags::mem_threadgroup);

uint now = 0u;
for (uint t = 0u; t < T; ++t) {
  const uint row = b * T + t;
  const float k = float(ts[row]) / float(U);
  const float n0 = live ? float(num[row * H + j]) : 0.0f;
  const float d0 = live ? float(den[row * H + j]) : 0.0f;
  for (uint u = 0u; u < U; ++u) {
    float n = 0.0f, d = 0.0f;
    NCPS_UNROLL
    for (int q = 0; q < PER; ++q) {
#if LISTS
      const float source_v = v_buffer[now][source[q]];
#else
      const float source_v = v_buffer[now][part][q];
#endif
      const float gate = ltc_gate(source_v, s2[q], m2[q]);
      n += gate * we[q];
      d += gate * w[q];
    }
    n += simd_shuffle_xor(n, ushort(1));
    d += simd_shuffle_xor(d, ushort(1));
    n += simd_shuffle_xor(n, ushort(2));
    d += simd_shuffle_xor(d, ushort(2));
    n += n0;
    d += d0;
    v = ltc_update(v, n, d, cm_j, k);
    if (writes) {
      NCPS_V(1u - now, j) = v;
#if SAVE
      const uint at = 2u * (row * U + u) * H + j;
      saved[at] = n;
      saved[at + H] = d;
#endif
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    now = 1u - now;
  }
  if (writes) states[row * H + j] = v;
}
#undef NCPS_V
