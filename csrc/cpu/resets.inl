// Steps that start anew: which rows do, what they read, and where their gradients go.
#pragma once

#include "csrc/cpu/memory.inl"

namespace mlx_ncps {
namespace {

static inline bool starts_anew(const ResetsProblem& p, long T, long b, long t) {
  return p.at && p.at[b * T + t] != 0.0f;
}

static inline bool any_starts_anew(const ResetsProblem& p, long T, long b, long rows, long t) {
  for (long r = 0; p.at && r < rows; ++r)
    if (starts_anew(p, T, b + r, t)) return true;
  return false;
}

// Rows `stride` apart that hold the state before step t: those that start anew get `anew` [B, H].
// Not inlined: within a kernel's loop over steps it would take registers from all else.
__attribute__((noinline)) static void start_rows_anew(const ResetsProblem& p, const float* anew,
                                                      long T, long H, long b, long rows, long t,
                                                      float* state, long stride) {
  for (long r = 0; r < rows; ++r)
    if (starts_anew(p, T, b + r, t)) copy(state + r * stride, anew + (b + r) * H, H);
}
static inline void start_anew(const ResetsProblem& p, const float* anew, long T, long H, long b,
                              long rows, long t, float* state, long stride) {
  if (p.at) start_rows_anew(p, anew, T, H, b, rows, t, state, stride);
}

// Their twin: rows of dL/d(state before step t); those that start anew add to `danew` [B, H] and
// hand nothing to the step before.
static inline void start_anew_backward(const ResetsProblem& p, float* danew, long T, long H, long b,
                                       long rows, long t, float* d, long stride) {
  for (long r = 0; p.at && r < rows; ++r) {
    if (!starts_anew(p, T, b + r, t)) continue;
    add_to(danew + (b + r) * H, d + r * stride, H);
    fill(d + r * stride, H, 0.0f);
  }
}

// Ahead of a backward of these rows. dc_anew: null without an LSTM.
static inline void clear_resets(const ResetsProblem& p, float* dc_anew, long T, long H, long b,
                                long rows) {
  if (!p.at) return;
  fill(p.dat + b * T, rows * T, 0.0f);
  fill(p.dstate + b * H, rows * H, 0.0f);
  if (dc_anew) fill(dc_anew + b * H, rows * H, 0.0f);
}

}  // namespace
}  // namespace mlx_ncps
