// LTC recurrence, forward, with the synapses in registers (MATHS 3): dense, H <= 64, or LISTS, the
// few synapses of a sparse wiring; all T steps and U unfolds of one batch row in one threadgroup.
//
// PARTS threads share a target j; each keeps its PER synapses part + q PARTS in registers for the
// whole sequence: of source i = part + q PARTS, or with LISTS the target's own, padded to PER PARTS
// with w = we = 0. v is double-buffered in threadgroup memory: one barrier per unfold. Padding
// targets compute and write nothing. One threadgroup per row, of a multiple of 32 threads, >= PARTS
// H.
//
// With MEMORY a step of the LSTM (MATHS 4) comes ahead of each step: the PARTS threads of a target
// share its four sums over h, whose weights are streamed or, where they are few, in registers; all
// of them have its gates and c. With RESETS v (and c) start anew before some steps (MATHS 5).
//
//   sizes      T, U, H
//   flag       SAVE                          : what the gradient needs leaves
//   flag       LISTS                         : the synapses of a wiring's lists alone
//   flag       RESETS                        : the state starts anew before some steps
//   flag       MEMORY                        : an LSTM in front
//   int        PER                           : synapses of a thread
//   int        PARTS                         : threads that share a target: 4
//   int        UNITS                         : H; without LISTS rounded up, PER PARTS
//   in float   num, den [B, T, H]            : sums over the inputs, with the leak
//   in float   v0 [B, H]                     : potentials before the first step
//   in float   ts [B, T]                     : timespans
//   in float   cm [H]
//   in float   synapse_s2, synapse_m2, synapse_w, synapse_we [H, H] if not LISTS
//   in float   synapse_s2, synapse_m2, synapse_w, synapse_we [H, PER * PARTS] if LISTS
//   in float   resets [B, T] if RESETS       : not 0 where the state starts anew
//   in float   v_anew [B, H] if RESETS       : from these potentials
//   in float   c_anew [B, H] if RESETS and MEMORY
//   in float   drive [B, T, 4 * H] if MEMORY : z of the LSTM without its share of h
//   in float   c0 [B, H] if MEMORY           : c before the first step
//   in float   recurrent [H, 4 * H] if MEMORY : the LSTM's weights of h
//   in int     sources [H, PER * PARTS] if LISTS : of the targets' synapses
//   out float  states [B, T, H]              : potentials after each step
//   out float  c_states [B, T, H] if MEMORY  : c after each step
//   out float  saved [B, T, U, 2, H] if SAVE : n and d of every unfold
//   out float  gates [B, T, 4 * H] if SAVE and MEMORY : of the LSTM
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
#if MEMORY
constexpr int GATES = 4;
#if LISTS
constexpr int HELD = 0;
#else
constexpr int HELD = PER <= 8 ? PER : 0;  // sources whose weights of the LSTM stay in registers
#endif
float held[GATES][HELD + (HELD == 0)];
NCPS_UNROLL
for (int q = 0; q < HELD; ++q) {
  const uint i = part + uint(q * PARTS);
  const bool on = live && i < H;
  NCPS_UNROLL
  for (int g = 0; g < GATES; ++g) {
    held[g][q] = on ? float(recurrent[(i * uint(GATES) + uint(g)) * H + j]) : 0.0f;
  }
}
float c = live ? float(c0[b * H + j]) : 0.0f;
#endif
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
#if RESETS
  if (float(resets[row]) != 0.0f) {  // so in all threads
    v = live ? float(v_anew[b * H + j]) : 0.0f;
    if (writes) NCPS_V(now, j) = v;
#if MEMORY
    c = live ? float(c_anew[b * H + j]) : 0.0f;
#endif
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
#endif
#if MEMORY
  float z[GATES];
  NCPS_UNROLL
  for (int g = 0; g < GATES; ++g) z[g] = 0.0f;
  NCPS_UNROLL
  for (int q = 0; q < HELD; ++q) {
    const float h = NCPS_V(now, part + uint(q * PARTS));
    NCPS_UNROLL
    for (int g = 0; g < GATES; ++g) z[g] += h * held[g][q];
  }
  for (uint i = HELD > 0 ? H : part; i < H; i += uint(PARTS)) {
    const float h = NCPS_V(now, i);
    NCPS_UNROLL
    for (int g = 0; g < GATES; ++g) {
      z[g] += h * recurrent[(i * uint(GATES) + uint(g)) * H + (live ? j : 0u)];
    }
  }
  NCPS_UNROLL
  for (int g = 0; g < GATES; ++g) {
    z[g] += simd_shuffle_xor(z[g], ushort(1));
    z[g] += simd_shuffle_xor(z[g], ushort(2));
    z[g] += drive[(row * uint(GATES) + uint(g)) * H + (live ? j : 0u)];
  }
  const LstmGates<float> gate_of = lstm_gates(z[0], z[1], z[2], z[3]);
  c = lstm_memory(gate_of, c);
  v = live ? lstm_output(c, gate_of.og) : 0.0f;
  if (writes) {
    NCPS_V(1u - now, j) = v;
    c_states[row * H + j] = c;
#if SAVE
    const float each[GATES] = {gate_of.i, gate_of.ig, gate_of.fg, gate_of.og};
    NCPS_UNROLL
    for (int g = 0; g < GATES; ++g) gates[(row * uint(GATES) + uint(g)) * H + j] = each[g];
#endif
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  now = 1u - now;
#endif
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
