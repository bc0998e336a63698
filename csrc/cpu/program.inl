// Step programs over whole sequences (csrc/program.h): a block of a few batch rows runs the
// instructions of all its steps. Each instruction is one loop over rows of vectors, or one product.
#pragma once

#include "csrc/cpu/activation.inl"
#include "csrc/cpu/gemm.inl"
#include "csrc/cpu/program_blocks.inl"
#include "csrc/cpu/program_maths.inl"

namespace mlx_ncps {
namespace {

constexpr long PROGRAM_ROWS = 16;           // of a block, at most
constexpr long PROGRAM_FLOATS = 64 * 1024;  // that a block's values may fill: L2 holds them

// Where a value lies: element q of row r at [r * row + q * lane]; `lane` 0 for a number of the row.
struct Place {
  float* at;
  long row;
  long lane;
};

// The memory that instructions read and write: of rows, and of fixed values.
struct ProgramMemory {
  float *rows, *fixed;
  const float* const* captured;
  long capacity;  // rows of the block that `rows` was made for

  float* of(const ProgramPlan& k, int id) const {
    const ProgramValue& v = k.value[id];
    if (v.varying) return rows + v.at * capacity;
    return v.at < 0 ? const_cast<float*>(captured[id]) : fixed + v.at;
  }
};

static inline Place place_of(const ProgramPlan& k, const ProgramMemory& m, int id, long size) {
  if (id < 0) return {nullptr, 0, 1};
  const ProgramValue& v = k.value[id];
  return {m.of(k, id), v.varying ? v.stride : 0, v.size == 1 && size != 1 ? 0 : 1};
}

static inline vf load_at(const Place& p, long r, long q) {
  const float* row = p.at + r * p.row;
  return p.lane ? load(row + q) : splat(*row);
}

// f(Constant) of an elementwise instruction's ProgramOp.
template <typename F>
static inline void with_elementwise(ProgramOp op, F f) {
  switch (op) {
#define NCPS_CASE(NAME, name, operands)                                                          \
  case ProgramOp::NAME:                                                                          \
    if constexpr (ProgramOp::NAME < ProgramOp::MOVE) return f(Constant<int(ProgramOp::NAME)>{}); \
    break;
    NCPS_PROGRAM_OPS(NCPS_CASE)
#undef NCPS_CASE
  }
  unknown_choice("instruction", int(op));
}

// LANES: bit n is set where operand n is no number of the row.
template <int OP, int LANES>
static void map_rows(const Place (&in)[3], const Place& out, long rows, long n) {
  constexpr ProgramOp op = ProgramOp(OP);
  for (long r = 0; r < rows; ++r) {
    const float *a = in[0].at + r * in[0].row, *b = in[1].at + r * in[1].row,
                *c = in[2].at + r * in[2].row;
    float* y = out.at + r * out.row;
    const vf A = LANES & 1 ? vf{} : splat(*a), B = LANES & 2 ? vf{} : splat(*b),
             C = LANES & 4 ? vf{} : splat(*c);
    for (long q = 0; q < n; q += W)
      store(y + q, program_value<op>(LANES & 1 ? load(a + q) : A, LANES & 2 ? load(b + q) : B,
                                     LANES & 4 ? load(c + q) : C));
  }
}

static void program_map(const ProgramPlan& k, const ProgramInstruction& i, const ProgramMemory& m,
                        long rows) {
  long n = k.value[i.out].size;
  Place in[3], out = place_of(k, m, i.out, n);
  for (int j = 0; j < 3; ++j) {
    in[j] = place_of(k, m, i.in[j], n);
    if (i.in[j] < 0) in[j] = in[0];
  }
  if (i.flat) n *= rows, rows = 1;
  const int lanes = int(in[0].lane | in[1].lane << 1 | in[2].lane << 2);
  with_elementwise(i.op, [&](auto op) {
    constexpr int OP = op.value;
    if constexpr (ProgramOp(OP) == ProgramOp::SELECT) {
      switch (lanes) {
        case 0:
          return map_rows<OP, 0>(in, out, rows, n);
        case 1:
          return map_rows<OP, 1>(in, out, rows, n);
        case 2:
          return map_rows<OP, 2>(in, out, rows, n);
        case 3:
          return map_rows<OP, 3>(in, out, rows, n);
        case 4:
          return map_rows<OP, 4>(in, out, rows, n);
        case 5:
          return map_rows<OP, 5>(in, out, rows, n);
        case 6:
          return map_rows<OP, 6>(in, out, rows, n);
        default:
          return map_rows<OP, 7>(in, out, rows, n);
      }
    } else if constexpr (ProgramOp(OP) >= ProgramOp::ADD) {
      switch (lanes & 3) {
        case 0:
          return map_rows<OP, 4>(in, out, rows, n);
        case 1:
          return map_rows<OP, 5>(in, out, rows, n);
        case 2:
          return map_rows<OP, 6>(in, out, rows, n);
        default:
          return map_rows<OP, 7>(in, out, rows, n);
      }
    } else {
      return lanes & 1 ? map_rows<OP, 7>(in, out, rows, n) : map_rows<OP, 6>(in, out, rows, n);
    }
  });
}

// Runs of a move: f(to, from, length, advance).
template <typename F>
static inline void each_run(const ProgramInstruction& i, F f) {
  for (int n = 0; n < i.count; n += 4) f(i.ints[n], i.ints[n + 1], i.ints[n + 2], i.ints[n + 3]);
}

static void program_move(const ProgramPlan& k, const ProgramInstruction& i, const ProgramMemory& m,
                         long rows) {
  const Place from = place_of(k, m, i.in[0], 0), to = place_of(k, m, i.out, 0);
  for (long r = 0; r < rows; ++r) {
    const float* in = from.at + r * from.row;
    float* out = to.at + r * to.row;
    each_run(i, [&](long at, long source, long length, long advance) {
      if (advance) return copy(out + at, in + source, length);
      fill(out + at, length, in[source]);
    });
  }
}

// Of SUM and, the other way round, EXPAND.
static void program_sum(const ProgramPlan& k, const ProgramInstruction& i, const ProgramMemory& m,
                        long rows) {
  const Place from = place_of(k, m, i.in[0], 0), to = place_of(k, m, i.out, 0);
  const auto run = i.op == ProgramOp::SUM ? reduce_blocks<false> : expand_blocks<false>;
  for (long r = 0; r < rows; ++r)
    run(from.at + r * from.row, to.at + r * to.row, i.ints[0], i.ints[1], i.ints[2]);
}

static void program_softmax(const ProgramPlan& k, const ProgramInstruction& i,
                            const ProgramMemory& m, long rows) {
  const Place from = place_of(k, m, i.in[0], 0), to = place_of(k, m, i.out, 0);
  for (long r = 0; r < rows; ++r)
    softmax_rows(from.at + r * from.row, to.at + r * to.row, i.ints[0], i.ints[1]);
}

// The matrices of products, packed.
static void pack_matrices(const ProgramPlan& k, const ProgramMemory& m, float* panels, bool back) {
  for (int n = 0; n < k.matrices; ++n) {
    const ProgramMatrix& x = k.matrix[n];
    const float* from = m.of(k, x.value);
    const long rows = back ? x.n : x.k, columns = back ? x.k : x.n;
    const bool along = x.transposed == back;  // a row of the panels is a row of memory
    const long stride = x.transposed ? x.k : x.n;
    pack_panels([&](long d) { return along ? from + d * stride : from + d; }, rows, columns,
                along ? 1 : stride, panels + (back ? x.back_panels : x.panels));
  }
}

static void program_product(const ProgramPlan& k, const ProgramInstruction& i,
                            const ProgramMemory& m, const float* panels, long rows) {
  const ProgramMatrix& x = k.matrix[i.matrix];
  const Place a = place_of(k, m, i.in[0], 0), c = place_of(k, m, i.out, 0);
  gemm_from(i.in[2] < 0 ? nullptr : m.of(k, i.in[2]), 0, a.at, a.row, 1, rows, panels + x.panels,
            x.k, x.n, c.at, c.row);
}

static void run_instruction(const ProgramPlan& k, const ProgramInstruction& i,
                            const ProgramMemory& m, const float* panels, long rows) {
  switch (i.op) {
    case ProgramOp::MOVE:
      return program_move(k, i, m, rows);
    case ProgramOp::SUM:
    case ProgramOp::EXPAND:
      return program_sum(k, i, m, rows);
    case ProgramOp::SOFTMAX:
      return program_softmax(k, i, m, rows);
    case ProgramOp::MATMUL:
      return program_product(k, i, m, panels, rows);
    default:
      return program_map(k, i, m, rows);
  }
}

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
