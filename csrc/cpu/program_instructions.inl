// The instructions of step programs, each for some rows: one loop over vectors, or one product.
#pragma once

#include "csrc/cpu/activation.inl"
#include "csrc/cpu/gemm.inl"
#include "csrc/cpu/program_blocks.inl"
#include "csrc/cpu/program_maths.inl"

namespace mlx_ncps {
namespace {

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

}  // namespace
}  // namespace mlx_ncps
