// A step program in the tests: its instructions, what they give in double, and its plan of memory
// as csrc/program.h describes it, every value in a place of its own.
#pragma once

#include <map>
#include <utility>

#include "tests/native/kernels.h"

namespace kernel_tests {

struct StepInstruction {
  ProgramOp op;
  int out;
  std::vector<int> in, ints;
};

struct StepProgram {
  std::vector<long> sizes;  // of every value: captured, inputs, states, others
  std::vector<bool> varying;
  long captured = 0, inputs = 0, states = 0;
  std::vector<std::pair<int, float>> constants;
  std::vector<StepInstruction> once, step;
  std::vector<int> next, outputs;

  // captured, inputs, states: the widths of each.
  StepProgram(const std::vector<long>& of_captured, const std::vector<long>& of_inputs,
              const std::vector<long>& of_states)
      : captured(long(of_captured.size())),
        inputs(long(of_inputs.size())),
        states(long(of_states.size())) {
    for (long n : of_captured) add(n, false);
    for (long n : of_inputs) add(n, true);
    for (long n : of_states) add(n, true);
  }
  int input(long n) const { return int(captured + n); }
  int state(long n) const { return int(captured + inputs + n); }
  int add(long size, bool varies) {
    sizes.push_back(size), varying.push_back(varies);
    return int(sizes.size()) - 1;
  }
  int constant(float value) {
    constants.emplace_back(add(1, false), value);
    return constants.back().first;
  }
  int at_once(ProgramOp op, long size, std::vector<int> in, std::vector<int> ints = {}) {
    once.push_back({op, add(size, false), std::move(in), std::move(ints)});
    return once.back().out;
  }
  int in_step(ProgramOp op, long size, std::vector<int> in, std::vector<int> ints = {}) {
    step.push_back({op, add(size, true), std::move(in), std::move(ints)});
    return step.back().out;
  }
  int matmul(int row, int matrix, long k, long n, bool transposed, int bias = -1) {
    std::vector<int> in{row, matrix};
    if (bias >= 0) in.push_back(bias);
    return in_step(ProgramOp::MATMUL, n, in, {int(k), int(n), int(transposed)});
  }
};

double program_value(ProgramOp op, double a, double b, double c);
void run_in_double(const StepInstruction& i, const StepProgram& program,
                   std::vector<Numbers>& values);

// A plan with the arrays that it points to.
struct StepPlan {
  ProgramPlan view{};
  std::vector<ProgramValue> values;
  std::vector<ProgramInstruction> once, step;
  std::vector<ProgramMatrix> matrices;
  std::vector<int> constant_ids;
  std::vector<float> constants;
  StepPlan(const StepProgram& program, int lanes);
  StepPlan(const StepPlan&) = delete;

 private:
  void place_values(const StepProgram& program, long lanes);
  void add_matrices(long panel);
};

}  // namespace kernel_tests
