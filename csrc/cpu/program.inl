// Step programs over whole sequences (csrc/program.h): a block of a few batch rows runs the
// instructions of all its steps.
#pragma once

#include "csrc/cpu/program_instructions.inl"

namespace mlx_ncps {
namespace {

constexpr long PROGRAM_ROWS = 16;           // of a block, at most
constexpr long PROGRAM_FLOATS = 64 * 1024;  // that a block's values may fill: L2 holds them

// Fixed values and packed matrices of a call.
struct ProgramFixed {
  float *fixed, *panels, *back_panels;
};

static long panels_floats(const ProgramPlan& k, bool back) {
  long count = 0;
  for (int n = 0; n < k.matrices; ++n) {
    const ProgramMatrix& x = k.matrix[n];
    count += back ? panel_floats(x.n, x.k) : panel_floats(x.k, x.n);
  }
  return count;
}

static ProgramFixed take_fixed(const ProgramProblem& p, bool forward, bool back, Carver& memory) {
  const ProgramPlan& k = *p.plan;
  return {memory.take(k.fixed_floats), memory.take(forward ? panels_floats(k, false) : 0),
          memory.take(back ? panels_floats(k, true) : 0)};
}

static void fill_fixed(const ProgramProblem& p, const ProgramFixed& f, bool forward, bool back) {
  const ProgramPlan& k = *p.plan;
  const ProgramMemory m{nullptr, f.fixed, p.captured, 1};
  fill(f.fixed, k.fixed_floats, 0.0f);
  for (int id = 0; id < k.captured; ++id)
    if (k.value[id].at >= 0) copy(m.of(k, id), p.captured[id], k.value[id].size);
  for (int n = 0; n < k.constants; ++n) *m.of(k, k.constant_id[n]) = k.constant[n];
  for (int n = 0; n < k.once; ++n) run_instruction(k, k.once_code[n], m, nullptr, 1);
  if (forward) pack_matrices(k, m, f.panels, false);
  if (back) pack_matrices(k, m, f.back_panels, true);
}

static inline bool starts_anew(const ProgramProblem& p, long b, long t) {
  return p.resets && p.resets[b * p.T + t] != 0.0f;
}

// The state of row b that step t reads, of state s.
static inline const float* state_of_step(const ProgramProblem& p, int s, long b, long t) {
  const ProgramPlan& k = *p.plan;
  const long n = k.value[k.captured + k.steps + s].size;
  if (starts_anew(p, b, t)) return p.reset_states[s] + b * n;
  return t == 0 ? p.states[s] + b * n : p.next[s] + (b * p.T + t - 1) * n;
}

// Runs step t of some rows: reads inputs and states, leaves every value in memory.
static void program_step(const ProgramProblem& p, const ProgramFixed& f, const ProgramMemory& m,
                         long b, long rows, long t) {
  const ProgramPlan& k = *p.plan;
  for (int s = 0; s < k.steps; ++s) {
    const ProgramValue& v = k.value[k.captured + s];
    for (long r = 0; r < rows; ++r)
      copy(m.of(k, k.captured + s) + r * v.stride, p.steps[s] + ((b + r) * p.T + t) * v.size,
           v.size);
  }
  for (int s = 0; s < k.states; ++s) {
    const int id = k.captured + k.steps + s;
    const ProgramValue& v = k.value[id];
    for (long r = 0; r < rows; ++r)
      copy(m.of(k, id) + r * v.stride, state_of_step(p, s, b + r, t), v.size);
  }
  for (int n = 0; n < k.step; ++n) run_instruction(k, k.step_code[n], m, f.panels, rows);
}

// to [rows][T][n] at step t <- a value.
static void write_value(const ProgramPlan& k, const ProgramMemory& m, int id, long rows, float* to,
                        long stride) {
  const Place from = place_of(k, m, id, 0);
  for (long r = 0; r < rows; ++r) copy(to + r * stride, from.at + r * from.row, k.value[id].size);
}

static void program_forward_rows(const ProgramProblem& p, const ProgramFixed& f,
                                 const ProgramMemory& m, long b, long rows, long t0, long end) {
  const ProgramPlan& k = *p.plan;
  for (long t = t0; t < end; ++t) {
    stop_if_interrupted();
    program_step(p, f, m, b, rows, t);
    const auto write = [&](int id, float* to) {
      const long n = k.value[id].size;
      write_value(k, m, id, rows, to + (b * p.T + t) * n, p.T * n);
    };
    for (int s = 0; s < k.states; ++s) write(k.next[s], p.next[s]);
    for (int s = 0; s < k.outputs; ++s) write(k.output[s], p.outputs[s]);
  }
}

// Vector operations of one row and step, roughly.
static long program_operations(const ProgramPlan& k) {
  long count = 0;
  for (int n = 0; n < k.step; ++n) {
    const ProgramInstruction& i = k.step_code[n];
    const long size = k.value[i.out].size;
    count += i.op == ProgramOp::MATMUL ? size * k.matrix[i.matrix].k : 4 * size;
  }
  return count / W + k.step;
}

static inline long program_rows(const ProgramPlan& k, long B, long copies, long share) {
  const long fit = PROGRAM_FLOATS / (copies * k.row_floats + 1), most = min_of(fit, PROGRAM_ROWS);
  return even_rows(B, most < 1 ? 1 : most, share);
}

static void program_forward_all(const ProgramProblem& p, const ProgramFixed& f) {
  const ProgramPlan& k = *p.plan;
  const long threads = share_work(p.B * p.T * program_operations(k), parallel_threads()),
             rows = program_rows(k, p.B, 1, threads), steps = CHUNK_ROWS / rows;
  const Slabs memory([&](Carver& m) { return m.take(rows * k.row_floats); }, threads);
  for (long i = 0; i < threads; ++i) memory.cleared(i);
  auto body = [&](long thread, long chain, long link) {
    const ProgramMemory m{memory.of(thread), f.fixed, p.captured, rows};
    const long b = chain * rows, t = link * steps;
    program_forward_rows(p, f, m, b, min_of(rows, p.B - b), t, min_of(p.T, t + steps));
  };
  parallel_chains(threads, (p.B + rows - 1) / rows, (p.T + steps - 1) / steps, body);
}

static void program_forward(const ProgramProblem& p) {
  const Carved f([&](Carver& memory) { return take_fixed(p, true, false, memory); });
  fill_fixed(p, f.arrays, true, false);
  program_forward_all(p, f.arrays);
}

}  // namespace
}  // namespace mlx_ncps
