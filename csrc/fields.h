// The table of an operation's arrays. A problem of the kernels (csrc/cpu/kernels.h) holds a pointer
// to each input and to its gradient; an Op (sequence_primitive.h) lists them once, in the order in
// which the primitive takes them:
//
//   f("ts", "[B, T]", {p.B, p.T}, p.ts, p.dts);
//
// From the list follow the number of inputs, the checks of their shapes, and both sets of pointers.
#pragma once

#include <array>
#include <string>

#include "csrc/cpu/kernels.h"
#include "csrc/primitive.h"

namespace mlx_ncps {

// The sizes of an array of up to three dimensions.
struct Sizes {
  std::array<long, 3> size{};
  int count = 0;
  Sizes(long a) : size{a}, count(1) {}
  Sizes(long a, long b) : size{a, b}, count(2) {}
  Sizes(long a, long b, long c) : size{a, b, c}, count(3) {}
  mx::Shape shape() const {  // Op::sized has seen that they fit
    mx::Shape shape;
    for (int i = 0; i < count; ++i) shape.push_back(int(size[i]));
    return shape;
  }
};

// The arrays of a sequence that starts anew at some steps: `resets` [B, T], and from which state.
template <typename F>
void resets_fields(ResetsProblem& r, long B, long T, long H, const F& f) {
  f("resets", "[B, T]", {B, T}, r.at, r.dat);
  f("reset_state", "[B, H]", {B, H}, r.state, r.dstate);
}

template <typename Op>
int count_fields(const Op& op, typename Op::Problem p) {
  int count = 0;
  op.fields(p, [&](const char*, const char*, const Sizes&, auto&&...) { ++count; });
  return count;
}

// f(array, name, the shape it must have, its symbols) for each input; throws where not even a shape
// can be told.
template <typename Op, typename F>
void each_input(const Op& op, const Arrays& in, const F& f) {
  auto p = op.sized(in);
  const mx::array* at = in.data();
  op.fields(p, [&](const char* name, const char* symbols, const Sizes& sizes, auto&&...) {
    f(*at++, name, sizes.shape(), symbols);
  });
}

// Points a problem to the inputs.
template <typename Op>
void read_fields(const Op& op, typename Op::Problem& p, const Arrays& in) {
  const mx::array* at = in.data();
  op.fields(p, [&](const char*, const char*, const Sizes&, const float*& input, float*&) {
    input = (at++)->data<float>();
  });
}

// And to the gradients, one for each input.
template <typename Op>
void write_fields(const Op& op, typename Op::Problem& p, Arrays& out) {
  mx::array* at = out.data();
  op.fields(p, [&](const char*, const char*, const Sizes&, const float*&, float*& gradient) {
    gradient = (at++)->data<float>();
  });
}

// Throws std::invalid_argument "[op] name must be <symbols>, got n dimensions."
inline void check_rank(const char* op, const char* name, const mx::array& a, int rank,
                       const char* symbols) {
  if (int(a.ndim()) == rank) return;
  throw std::invalid_argument("[" + std::string(op) + "] " + name + " must be " + symbols +
                              ", got " + std::to_string(a.ndim()) + " dimensions.");
}

// B, T, I and H of a cell's first two inputs, x and its state.
template <typename Problem>
void set_sizes(Problem& p, const char* op, const char* state, const Arrays& in) {
  check_rank(op, "x", in[0], 3, "[B, T, I]");
  check_rank(op, state, in[1], 2, "[B, H]");
  p.B = in[0].shape(0), p.T = in[0].shape(1), p.I = in[0].shape(2), p.H = in[1].shape(1);
}

}  // namespace mlx_ncps
