// The primitive that runs a step program over a sequence: see program.h.
#include <algorithm>
#include <stdexcept>

#include "csrc/cpu/kernels.h"
#include "csrc/program.h"
#include "csrc/sequence_primitive.h"

namespace mlx_ncps {
namespace {

// The arrays of a call, as csrc/fields.h lists them. reset_states: none where the states start anew
// from `states`.
struct ProgramArrays {
  long B, T;
  std::vector<const float*> steps, states, reset_states, captured;
  std::vector<float*> dsteps, dstates, dreset_states, dcaptured;
  const float* resets;
  float* dresets;
  std::vector<float*> results;
  std::vector<const float*> dresults;
};

Sizes sizes_of(const mx::Shape& shape) {
  if (shape.size() == 1) return {shape[0]};
  if (shape.size() == 2) return {shape[0], shape[1]};
  if (shape.size() == 3) return {shape[0], shape[1], shape[2]};
  Sizes none(1);
  none.count = 0;
  return none;
}

struct ProgramCellOp {
  static constexpr const char *NAME = "StepProgram", *BACKWARD_NAME = "StepProgramBackward",
                              *CALL = "program_sequence";
  using Problem = ProgramArrays;

  std::shared_ptr<const Program> program;
  bool resets, other_states;  // whether there are reset_states

  bool operator==(const ProgramCellOp&) const = default;
  const ProgramText& text() const { return program->text(); }
  int batched() const {
    const int states = int(text().states.size());
    return int(text().steps.size()) + states + resets + (other_states ? states : 0);
  }
  int inputs() const { return batched() + int(text().captured.size()); }
  int states() const { return int(text().next.size() + text().outputs.size()); }
  ProgramCellOp of_mapped(int) const { return *this; }
  Shapes saved_shapes(const Arrays&) const { return {}; }
  std::vector<int> saved_batch_axes() const { return {}; }

  Problem sized(const Arrays& in) const {
    check_rank(CALL, "the first input", in[0], 3, "[B, T, n]");
    Problem p{.B = in[0].shape(0), .T = in[0].shape(1), .resets = nullptr, .dresets = nullptr};
    p.steps.resize(text().steps.size()), p.dsteps.resize(text().steps.size());
    p.states.resize(text().states.size()), p.dstates.resize(text().states.size());
    const size_t others = other_states ? p.states.size() : 0;
    p.reset_states.resize(others), p.dreset_states.resize(others);
    p.captured.resize(text().captured.size()), p.dcaptured.resize(text().captured.size());
    return p;
  }
  template <typename F>
  void fields(Problem& p, const F& f) const {
    for (size_t n = 0; n < p.steps.size(); ++n)
      f("an input", "[B, T, n]", {p.B, p.T, text().steps[n]}, p.steps[n], p.dsteps[n]);
    for (size_t n = 0; n < p.states.size(); ++n)
      f("a state", "[B, n]", {p.B, text().states[n]}, p.states[n], p.dstates[n]);
    if (resets) f("resets", "[B, T]", {p.B, p.T}, p.resets, p.dresets);
    for (size_t n = 0; n < p.reset_states.size(); ++n)
      f("a reset state", "[B, n]", {p.B, text().states[n]}, p.reset_states[n], p.dreset_states[n]);
    for (size_t n = 0; n < p.captured.size(); ++n)
      f("a captured array", "that of the trace", sizes_of(text().captured[n]), p.captured[n],
        p.dcaptured[n]);
  }
  Shapes states_shapes(const Arrays& in) const {
    Shapes shapes;
    const auto add = [&](int id) {
      shapes.push_back({in[0].shape(0), in[0].shape(1), int(program->size(id))});
    };
    for (int id : text().next) add(id);
    for (int id : text().outputs) add(id);
    return shapes;
  }
  Problem forward_problem(const Arrays& in, Arrays& out) const {
    auto p = sized(in);
    read_fields(*this, p, in);
    for (auto& a : out) p.results.push_back(a.data<float>());
    return p;
  }
  Problem backward_problem(const Arrays& in, Arrays& out) const {
    auto p = sized(in);
    read_fields(*this, p, in);
    write_fields(*this, p, out);
    const int first = inputs(), count = states();
    for (int n = 0; n < count; ++n) {  // only read: the forward's results
      p.results.push_back(const_cast<float*>(in[first + n].data<float>()));
      p.dresults.push_back(in[first + count + n].data<float>());
    }
    return p;
  }
  ProgramProblem problem(const Problem& p, const Program::Plan& plan) const {
    const size_t next = text().next.size();
    return {.plan = &plan.view,
            .B = p.B,
            .T = p.T,
            .captured = p.captured.data(),
            .steps = p.steps.data(),
            .states = p.states.data(),
            .resets = p.resets,
            .reset_states = (other_states ? p.reset_states : p.states).data(),
            .next = p.results.data(),
            .outputs = p.results.data() + next,
            .dnext = p.dresults.data(),
            .doutputs = p.dresults.data() + (p.dresults.empty() ? 0 : next),
            .dcaptured = p.dcaptured.data(),
            .dsteps = p.dsteps.data(),
            .dstates = p.dstates.data(),
            .dreset_states = (other_states ? p.dreset_states : p.dstates).data()};
  }
  void forward(const Problem& p) const {
    if (p.B == 0 || p.T == 0) return;
    const auto& table = kernels();
    const auto plan = program->plan(table.lanes, false);
    table.program_forward(problem(p, *plan));
  }
  void backward(const Problem& p) const {
    if (resets) std::fill_n(p.dresets, p.B * p.T, 0.0f);
    if (p.B == 0 || p.T == 0) {
      for (const auto& gradients : {p.dstates, p.dreset_states})
        for (size_t n = 0; n < gradients.size(); ++n)
          std::fill_n(gradients[n], p.B * text().states[n], 0.0f);
      for (size_t n = 0; n < p.dcaptured.size(); ++n)
        std::fill_n(p.dcaptured[n], program->size(int(n)), 0.0f);
      return;
    }
    const auto& table = kernels();
    const auto plan = program->plan(table.lanes, true);
    table.program_backward(problem(p, *plan));
  }
};

}  // namespace

Arrays program_sequence(std::shared_ptr<const Program> program, const Arrays& steps,
                        const Arrays& states, const Arrays& captured,
                        const std::optional<mx::array>& resets,
                        const std::optional<Arrays>& reset_states, mx::StreamOrDevice s_) {
  const auto s = mx::to_stream(s_, mx::Device::cpu);
  const ProgramCellOp op{program, resets.has_value(), reset_states.has_value()};
  const auto& t = program->text();
  const auto wants = [](const char* name, const Arrays& got, size_t count) {
    if (got.size() != count)
      throw std::invalid_argument(std::string("[") + ProgramCellOp::CALL + "] " + name +
                                  " must be " + std::to_string(count) + " arrays, got " +
                                  std::to_string(got.size()) + ".");
  };
  wants("steps", steps, t.steps.size()), wants("states", states, t.states.size());
  wants("captured", captured, t.captured.size());
  if (reset_states) {
    wants("reset_states", *reset_states, t.states.size());
    if (!resets)
      throw std::invalid_argument(std::string("[") + ProgramCellOp::CALL +
                                  "] reset_states must come with resets, got none.");
  }
  Arrays in = steps;
  in.insert(in.end(), states.begin(), states.end());
  if (resets) in.push_back(mx::astype(*resets, mx::float32, s));
  if (reset_states) in.insert(in.end(), reset_states->begin(), reset_states->end());
  in.insert(in.end(), captured.begin(), captured.end());
  const auto dtype = steps[0].dtype();
  in[0] = exportable_by_hint(in[0], any_traced(in), s);
  const auto all = prepared(op, in, s);
  Arrays results;
  for (const auto& out : outputs_of(std::make_shared<Sequence<ProgramCellOp>>(s, op, true), all))
    results.push_back(mx::astype(out, dtype, s));
  return results;
}

}  // namespace mlx_ncps
