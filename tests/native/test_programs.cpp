// Step programs by the kernels: arguments captured arrays, inputs of steps, states.
#include "csrc/cpu/thread_pool.h"
#include "tests/native/program_call.h"

namespace {

using namespace mlx_ncps;
using namespace kernel_tests;
using enum ProgramOp;

// The ops that take one, two or three operands.
std::vector<std::pair<ProgramOp, int>> elementwise() {
  std::vector<std::pair<ProgramOp, int>> out;
#define NCPS_OP(NAME, name, operands) \
  if (NAME < MOVE) out.emplace_back(NAME, operands);
  NCPS_PROGRAM_OPS(NCPS_OP)
#undef NCPS_OP
  return out;
}

bool wants_positive(ProgramOp op) {
  return op == LOG || op == LOG1P || op == SQRT || op == RSQRT || op == DIV;
}

// An elementwise instruction of every kind of operands: rows and numbers, of a step and fixed.
StepProgram of_elementwise(ProgramOp op, int operands, long n) {
  StepProgram p({n, 1}, {n, 1}, {n});
  const int zero = p.constant(0.1f);
  const int kinds[] = {p.in_step(ADD, n, {p.input(0), p.state(0)}), p.input(1), 0, 1};
  int conditions[4];  // 0 and 1, which no small change of a number changes
  for (int i = 0; i < 4; ++i)
    conditions[i] = i < 2 ? p.in_step(GT, p.sizes[kinds[i]], {kinds[i], zero})
                          : p.at_once(GT, p.sizes[kinds[i]], {kinds[i], zero});
  int all = 1;
  for (int i = 0; i < operands; ++i) all *= 4;
  for (int which = 0; which < all; ++which) {
    std::vector<int> in;
    bool fixed = true;
    long size = 1;
    for (int i = 0, rest = which; i < operands; ++i, rest /= 4) {
      in.push_back(op == SELECT && i == 0 ? conditions[rest % 4] : kinds[rest % 4]);
      fixed = fixed && rest % 4 > 1, size = std::max(size, p.sizes[in.back()]);
    }
    p.outputs.push_back(p.in_step(op, size, in));
    if (fixed) p.outputs.push_back(p.at_once(op, size, in));
  }
  p.next = {p.in_step(SIGMOID, n, {p.outputs[0]})};
  return p;
}

}  // namespace

NATIVE_TEST(programs_of_every_elementwise_instruction_equal_the_equations) {
  for_each_isa([] {
    for (auto [op, operands] : elementwise())
      for (long n : {1, 5, 16, 33}) {
        const auto p = of_elementwise(op, operands, n);
        const auto name = "op " + std::to_string(int(op)) + " n" + std::to_string(n);
        const Range range = wants_positive(op) ? Range{.3, 1.2} : Range{};
        check_program(name, p, {3, 2}, range);
        if (!wants_positive(op)) check_program(name + " whole", p, {5, 3}, {-2, 2, true});
      }
  });
}

// Moves, sums and softmax of steps and of fixed values, with products before and behind them.
static StepProgram of_blocks() {
  StepProgram p({12, 5, 12 * 7}, {12, 1}, {12, 3});
  const int shares = p.at_once(SOFTMAX, 12, {0}, {3, 4}),
            folded = p.at_once(SUM, 4, {0}, {1, 3, 4}), column = p.at_once(SUM, 3, {0}, {3, 4, 1}),
            moved = p.at_once(MOVE, 12, {1}, {0, 1, 4, 1, 4, 2, 8, 0}),
            x = p.in_step(ADD, 12, {p.input(0), p.state(0)}),
            soft = p.in_step(SOFTMAX, 12, {x}, {2, 6}), one = p.in_step(SOFTMAX, 12, {x}, {1, 12}),
            turned = p.in_step(MOVE, 12, {soft}, {0, 6, 6, 1, 6, 0, 6, 1}),
            wide = p.in_step(MOVE, 40, {p.input(1)}, {0, 0, 40, 0}), joined = p.add(15, true);
  p.step.push_back({MOVE, joined, {turned}, {0, 0, 12, 1}});
  p.step.push_back({MOVE, joined, {p.state(1)}, {12, 0, 3, 1}});
  const int rows = p.in_step(SUM, 3, {joined}, {3, 5, 1}),
            columns = p.in_step(SUM, 5, {joined}, {1, 3, 5}),
            middle = p.in_step(SUM, 6, {x}, {3, 2, 2}), all = p.in_step(SUM, 1, {wide}, {1, 40, 1}),
            mixed = p.matmul(soft, 2, 12, 7, false), scaled = p.in_step(MUL, 12, {one, shares}),
            shifted = p.in_step(ADD, 12, {scaled, moved});
  p.next = {p.in_step(TANH, 12, {shifted}), p.in_step(ADD, 3, {rows, column})};
  // runs of one number each, none of whole vectors
  const int runs = p.in_step(MOVE, 18, {x}, {0, 1, 7, 0, 7, 3, 11, 0});
  p.outputs = {columns, middle, all, mixed, folded, soft, joined, p.input(0), p.state(1), 1, runs};
  return p;
}

NATIVE_TEST(programs_of_moves_sums_and_softmax_equal_the_equations) {
  for_each_isa([] {
    const auto p = of_blocks();
    for (const ProgramSizes& n : {ProgramSizes{1, 1}, {3, 5}, {16, 2}, {17, 14}, {0, 3}, {3, 0}})
      for (StartsAnew anew : {StartsAnew::NONE, StartsAnew::FROM_STATES, StartsAnew::FROM_OTHERS})
        check_program("blocks", p, n, {}, anew);
  });
}

// Sums, their counterparts and softmax over an axis of n, as the last one and before one of 3, of
// steps and of fixed values.
static StepProgram of_one_axis(long outer, long n) {
  const int o = int(outer), m = int(n);
  StepProgram p({outer * n, outer, outer * n * 3}, {outer * n, outer * n * 3}, {outer});
  const int x = p.input(0), wide = p.input(1),
            repeated = p.in_step(EXPAND, outer * n, {p.state(0)}, {o, m, 1}),
            mixed = p.in_step(ADD, outer * n, {x, repeated}),
            soft = p.in_step(SOFTMAX, outer * n, {mixed}, {o, m}),
            sum = p.in_step(SUM, outer, {p.in_step(MUL, outer * n, {soft, x})}, {o, m, 1}),
            last = p.in_step(SUM, outer * 3, {wide}, {o, m, 3}),
            tiled = p.in_step(EXPAND, outer * n * 3, {last}, {o, m, 3}),
            other = p.in_step(SUM, 3 * n, {wide}, {1, o, 3 * m}),
            spread = p.in_step(EXPAND, outer * n * 3, {other}, {1, o, 3 * m}),
            both = p.in_step(MUL, outer * n * 3, {tiled, spread}),
            narrow = p.in_step(SUM, n * 3, {wide}, {3, o, m}),
            grown = p.in_step(EXPAND, outer * n * 3, {narrow}, {3, o, m});
  p.next = {p.in_step(TANH, outer, {sum})};
  p.outputs = {soft,
               both,
               grown,
               p.at_once(SOFTMAX, outer * n, {0}, {o, m}),
               p.at_once(SUM, outer, {0}, {o, m, 1}),
               p.at_once(EXPAND, outer * n, {1}, {o, m, 1}),
               p.at_once(SUM, n * 3, {2}, {3, o, m})};
  return p;
}

NATIVE_TEST(programs_over_an_axis_of_any_length_equal_the_equations) {
  for_each_isa([] {
    for (long n : {1, 2, 3, 4, 8, 16, 17, 32})
      for (long outer : {1, 2, 3, 8, 19})
        check_program("axis of " + std::to_string(n) + " of " + std::to_string(outer),
                      of_one_axis(outer, n), {3, 2});
  });
}

// A product of few columns before one of many, and a repeated value that is read again.
NATIVE_TEST(programs_of_unequal_products_and_of_pairs_equal_the_equations) {
  for_each_isa([] {
    StepProgram p({3, 3 * 70}, {3, 6}, {1});
    const int x = p.input(0), pairs = p.input(1), narrow = p.matmul(x, 0, 3, 1, false),
              wide = p.matmul(x, 1, 3, 70, false),
              repeated = p.in_step(EXPAND, 3 * 16 * 2, {pairs}, {3, 16, 2}),
              bent = p.in_step(TANH, 3 * 16 * 2, {repeated}),
              squares = p.in_step(MUL, 6, {pairs, pairs});
    p.next = {p.in_step(ADD, 1, {narrow, p.state(0)})};
    p.outputs = {wide, bent, squares};
    for (const ProgramSizes& n : {ProgramSizes{1, 1}, {3, 40}, {17, 3}})
      check_program("unequal", p, n);
  });
}

// The gradient of a constant has no place. A bias may be the first of the values.
NATIVE_TEST(programs_of_constants_alone_equal_the_equations) {
  for_each_isa([] {
    StepProgram p({1, 3}, {3}, {1});
    const int c = p.constant(0.7f), sum = p.in_step(SUM, 1, {c}, {1, 1, 1}),
              wide = p.in_step(EXPAND, 3, {c}, {1, 3, 1}),
              moved = p.in_step(MOVE, 3, {c}, {0, 0, 3, 0}),
              soft = p.in_step(SOFTMAX, 1, {c}, {1, 1}),
              product = p.matmul(p.input(0), 1, 3, 1, false, c),
              other = p.matmul(p.input(0), 1, 3, 1, false, 0),
              scaled = p.in_step(MUL, 3, {wide, p.input(0)}),
              all = p.in_step(ADD, 3, {scaled, moved});
    p.next = {p.in_step(ADD, 1, {product, soft})};
    p.outputs = {sum, all, c, other};
    for (const ProgramSizes& n : {ProgramSizes{1, 1}, {3, 2}, {17, 3}})
      check_program("constants", p, n);
  });
}

// Products of captured matrices and of computed ones, as they are and transposed, several of one.
static StepProgram of_products(long X, long H) {
  StepProgram p({X * H, H, H * H, H * H, 1}, {X, 1}, {H, H});
  const int masked = p.at_once(MUL, H * H, {2, 3}), h = p.state(0), c = p.state(1),
            z = p.matmul(p.input(0), 0, X, H, false, 1), u = p.matmul(h, masked, H, H, true, 1),
            v = p.matmul(c, masked, H, H, false), w = p.matmul(h, 2, H, H, true),
            again = p.matmul(c, masked, H, H, true), sum = p.in_step(ADD, H, {z, u}),
            gate = p.in_step(SIGMOID, H, {sum}), other = p.in_step(TANH, H, {v}),
            difference = p.in_step(SUB, H, {other, h}),
            part = p.in_step(MUL, H, {gate, difference}),
            timed = p.in_step(MUL, H, {part, p.input(1)}), bent = p.in_step(TANH, H, {w}),
            more = p.in_step(TANH, H, {again}), both = p.in_step(MUL, H, {bent, more});
  const int half = p.constant(0.5f), rest = p.in_step(SUB, H, {half, timed}),
            share = p.in_step(MUL, H, {rest, half});
  p.next = {p.in_step(ADD, H, {h, timed}), p.in_step(MUL, H, {both, 4})};
  p.outputs = {p.in_step(SUM, 1, {both}, {1, int(H), 1}), z, 2, share};
  return p;
}

NATIVE_TEST(programs_of_products_equal_the_equations) {
  for_each_isa([] {
    for (const ProgramSizes& n :
         {ProgramSizes{1, 1}, {1, 70}, {2, 3}, {17, 13}, {40, 5}, {0, 2}, {2, 0}})
      for (StartsAnew anew : {StartsAnew::NONE, StartsAnew::FROM_STATES, StartsAnew::FROM_OTHERS})
        check_program("products", of_products(3, 5), n, {-.8, .8}, anew);
    check_program("products", of_products(17, 16), {5, 4}, {-.4, .4}, StartsAnew::FROM_OTHERS);
    check_program("products", of_products(1, 1), {3, 3}, {}, StartsAnew::FROM_OTHERS);
    check_program("products", of_products(33, 65), {3, 3}, {-.2, .2});
  });
}

// More floats in a row than a block of several rows may fill.
NATIVE_TEST(programs_of_wide_rows_equal_the_equations) {
  for_each_isa([] {
    const long n = 9000;
    StepProgram p({n}, {n}, {n});
    const int sum = p.in_step(ADD, n, {p.input(0), p.state(0)}),
              scaled = p.in_step(MUL, n, {sum, 0});
    p.next = {p.in_step(TANH, n, {scaled})};
    p.outputs = {p.in_step(SUM, 1, {scaled}, {1, int(n), 1})};
    check_program("wide", p, {5, 3}, {-.1, .1}, StartsAnew::FROM_OTHERS);
  });
}

NATIVE_TEST(programs_hold_with_any_number_of_threads) {
  const auto p = of_products(9, 33);
  for (const int threads : {1, 3}) {
    set_num_threads(threads);
    check_program("threads", p, {90, 30}, {-.3, .3}, StartsAnew::FROM_OTHERS);
  }
  set_num_threads(0);
}

// f of every number, by a program of one row.
static Numbers by_program(ProgramOp op, const Numbers& a, const Numbers& b) {
  const long n = long(a.size());
  StepProgram p({}, {n, n}, {1});
  p.next = {p.state(0)};
  p.outputs = {op < ADD ? p.in_step(op, n, {p.input(0)})
                        : p.in_step(op, n, {p.input(0), p.input(1)})};
  ProgramCall call(p, {1, 1}, {}, StartsAnew::NONE);
  for (long i = 0; i < n; ++i) call.in[0].data[i] = float(a[i]), call.in[1].data[i] = float(b[i]);
  kernels().program_forward(call.problem);
  return {call.out[1].get(), call.out[1].get() + n};
}

NATIVE_TEST(programs_maths_are_accurate_to_their_ends) {
  const double inf = std::numeric_limits<double>::infinity(), nan = std::nan("");
  Numbers z{0,         -0.0,           1,    -1,    inf, -inf, nan,        0x1p-126,   0x1p-149,
            0x1p-130,  0x1.fffffep127, 100,  -100,  88,  -87,  0.70710678, 0.70710683, 1.4142135,
            1.4142137, -0.99999994,    1e-8, -1e-8, 3e-5};
  Draw draw{std::mt19937(3)};
  for (double scale : {1e-30, 1e-6, 0.1, 1.0, 1.5, 10.0, 1e10}) {
    const auto more = draw(200, -scale, scale);
    z.insert(z.end(), more.begin(), more.end());
  }
  for (auto& v : z) v = float(v);
  for_each_isa([&] {
    for (auto op :
         {EXP, LOG, LOG1P, SQRT, RSQRT, SIGMOID, TANH, ERF, SIGN, ABS, LOGADDEXP, MAX, MIN})
      for (size_t turn : {0, 1, 7, 300}) {
        if (op < ADD && turn > 0) continue;
        Numbers b = z;
        std::rotate(b.begin(), b.begin() + long(turn), b.end());
        const auto got = by_program(op, z, b);
        for (size_t i = 0; i < z.size(); ++i) {
          double want = program_value(op, z[i], b[i], 0);
          if (op == LOGADDEXP && (std::isnan(z[i]) || std::isnan(b[i]))) want = nan;
          // 2^z of a rounded z has the error of z. Below 2^-126, and 0 instead.
          const bool powers = op == EXP || op == SIGMOID;
          const double relative = 5e-7 * (powers ? std::clamp(std::abs(z[i]), 1.0, 200.0) : 1),
                       least = powers            ? 0x1p-126
                               : op == LOGADDEXP ? 2e-7
                                                 : 0x1p-149;
          const bool holds = std::isnan(want) ? std::isnan(got[i])
                             : std::isinf(float(want))
                                 ? got[i] == float(want)
                                 : std::abs(got[i] - want) <= relative * std::abs(want) + least;
          require(holds, std::string(kernels().name) + " op " + std::to_string(int(op)) + " of " +
                             std::to_string(z[i]) + ", " + std::to_string(b[i]) + ": got " +
                             std::to_string(got[i]) + ", want " + std::to_string(want));
        }
      }
  });
}
