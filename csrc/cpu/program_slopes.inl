// The gradients of the instructions of program_instructions.inl, but for products.
#pragma once

#include "csrc/cpu/program_instructions.inl"

namespace mlx_ncps {
namespace {

// Where gradients are added up: of rows, and of fixed values, in a task's slab or of a whole call.
struct ProgramGradients {
  float *rows, *fixed;
  long capacity;
  bool of_call;

  // Null where none is wanted.
  Place of(const ProgramPlan& k, int id, long size) const {
    const ProgramValue& v = k.value[id];
    const long lane = v.size == 1 && size != 1 ? 0 : 1;
    if (v.varying) return {rows + v.at * capacity, v.stride, lane};
    const long at = of_call ? v.at : v.slab_at;
    return {at < 0 ? nullptr : fixed + at, 0, lane};
  }
};

// WHOLE: no operand is a number of the row.
template <int OP, int N, bool WHOLE>
static void slope_rows(const Place (&in)[3], const Place& y, const Place& dy, const Place& out,
                       long rows, long n) {
  constexpr ProgramOp op = ProgramOp(OP);
  const auto read = [](const Place& p, long r, long q) {
    return WHOLE ? load(p.at + r * p.row + q) : load_at(p, r, q);
  };
  for (long r = 0; r < rows; ++r) {
    float* to = out.at + r * out.row;
    vf sum = vf{};
    for (long q = 0; q < n; q += W) {
      const vf d =
          program_slope<op, N>(read(in[0], r, q), read(in[1], r, q), read(y, r, q), read(dy, r, q));
      if (WHOLE || out.lane) {
        store(to + q, load(to + q) + d);
      } else if (q + W <= n) {
        sum += d;
      } else {
        float lanes[W];
        store(lanes, d);
        sum += load_partial(lanes, n - q);
      }
    }
    if (!WHOLE && !out.lane) *to += horizontal_sum(sum);
  }
}

static void map_backward(const ProgramPlan& k, const ProgramInstruction& i, const ProgramMemory& m,
                         const ProgramGradients& g, long rows) {
  long n = k.value[i.out].size;
  const long size = n;
  Place in[3];
  for (int j = 0; j < 3; ++j) in[j] = i.in[j] < 0 ? in[0] : place_of(k, m, i.in[j], n);
  const Place y = place_of(k, m, i.out, n), dy = g.of(k, i.out, n);
  if (i.flat) n *= rows, rows = 1;
  with_elementwise(i.op, [&](auto op) {
    const auto operand = [&](auto number) {
      constexpr int N = decltype(number)::value;
      if constexpr (has_slope<ProgramOp(decltype(op)::value)>(N)) {
        const Place out = i.in[N] < 0 ? Place{} : g.of(k, i.in[N], size);
        if (!out.at) return;
        const bool whole = in[0].lane && in[1].lane && out.lane;
        const auto run = whole ? slope_rows<decltype(op)::value, N, true>
                               : slope_rows<decltype(op)::value, N, false>;
        run(in, y, dy, out, rows, n);
      }
    };
    operand(Constant<0>{}), operand(Constant<1>{}), operand(Constant<2>{});
  });
}

static void move_backward(const ProgramPlan& k, const ProgramInstruction& i,
                          const ProgramGradients& g, long rows) {
  const Place to = g.of(k, i.in[0], 0), from = g.of(k, i.out, 0);
  for (long r = 0; r < rows && to.at; ++r) {
    float* in = to.at + r * to.row;
    const float* out = from.at + r * from.row;
    each_run(i, [&](long at, long source, long length, long advance) {
      if (advance) return add_to(in + source, out + at, length);
      vf sum = vf{};
      for (long q = 0; q < length; q += W) sum += load_partial(out + at + q, length - q);
      in[source] += horizontal_sum(sum);
    });
  }
}

static void sum_backward(const ProgramPlan& k, const ProgramInstruction& i,
                         const ProgramGradients& g, long rows) {
  const Place to = g.of(k, i.in[0], 0), from = g.of(k, i.out, 0);
  const auto run = i.op == ProgramOp::SUM ? expand_blocks<true> : reduce_blocks<true>;
  for (long r = 0; r < rows && to.at; ++r)
    run(from.at + r * from.row, to.at + r * to.row, i.ints[0], i.ints[1], i.ints[2]);
}

static void softmax_backward(const ProgramPlan& k, const ProgramInstruction& i,
                             const ProgramMemory& m, const ProgramGradients& g, long rows) {
  const Place to = g.of(k, i.in[0], 0), y = place_of(k, m, i.out, 0), dy = g.of(k, i.out, 0);
  for (long r = 0; r < rows && to.at; ++r)
    softmax_rows_backward(y.at + r * y.row, dy.at + r * dy.row, to.at + r * to.row, i.ints[0],
                          i.ints[1]);
}

// Of every instruction but products.
static void instruction_backward(const ProgramPlan& k, const ProgramInstruction& i,
                                 const ProgramMemory& m, const ProgramGradients& g, long rows) {
  switch (i.op) {
    case ProgramOp::MOVE:
      return move_backward(k, i, g, rows);
    case ProgramOp::SUM:
    case ProgramOp::EXPAND:
      return sum_backward(k, i, g, rows);
    case ProgramOp::SOFTMAX:
      return softmax_backward(k, i, m, g, rows);
    default:
      return map_backward(k, i, m, g, rows);
  }
}

}  // namespace
}  // namespace mlx_ncps
