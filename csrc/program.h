// Step programs: one step of any cell as a list of instructions, which the CPU's kernels run over
// whole sequences, forward and backward. python/mlx_ncps/programs makes them from a cell; a Program
// checks all that the kernels read.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "csrc/cpu/program.h"
#include "csrc/primitive.h"

namespace mlx_ncps {

struct Instruction {
  std::string op;
  int out;
  std::vector<int> in, ints;
};

// What a program is made of, as Python has it. Value ids: captured arrays, inputs of a step,
// states, then others.
struct ProgramText {
  std::vector<mx::Shape> captured;
  std::vector<int> steps, states;  // widths
  std::vector<long> sizes;         // of every value, of a varying one for each row
  std::vector<bool> varying;
  std::vector<std::pair<int, float>> constants;
  std::vector<Instruction> once, step;
  std::vector<int> next, outputs;
};

class Program {
 public:
  // Throws std::invalid_argument where the kernels would read or write what is not there.
  explicit Program(ProgramText text);

  const ProgramText& text() const { return text_; }
  long size(int id) const { return text_.sizes[id]; }
  int first_step() const { return int(text_.captured.size()); }
  int first_state() const { return first_step() + int(text_.steps.size()); }

  // Of one row and step, as StepCell::work counts it.
  long work() const;

  // The plan of memory for vectors of so many lanes. keep: every value keeps a place of its own,
  // as a backward wants them; else places are used again.
  struct Plan {
    ProgramPlan view{};
    std::vector<ProgramValue> values;
    std::vector<ProgramInstruction> once, step;
    std::vector<ProgramMatrix> matrices;
    std::vector<int> constant_ids;
    std::vector<float> constants;
  };
  std::shared_ptr<const Plan> plan(int lanes, bool keep) const;

 private:
  void check() const;
  void check_instruction(const Instruction& i, bool once, std::vector<bool>& written) const;
  ProgramText text_;
  std::vector<ProgramOp> once_ops_, step_ops_;
};

// The program over a sequence -> states [B, T, n] each, then outputs [B, T, n] each, in the dtype
// of the first input. steps: inputs [B, T, n] of each step; states [B, n]; captured: the arrays of
// the text, in float32; resets: [B, T], not 0 where the states start anew before a step, from
// reset_states [B, n] or, without, from `states`.
Arrays program_sequence(std::shared_ptr<const Program> program, const Arrays& steps,
                        const Arrays& states, const Arrays& captured,
                        const std::optional<mx::array>& resets,
                        const std::optional<Arrays>& reset_states, mx::StreamOrDevice s);

}  // namespace mlx_ncps
