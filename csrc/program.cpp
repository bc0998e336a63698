// See program.h.
#include "csrc/program.h"

#include <algorithm>
#include <climits>
#include <map>
#include <stdexcept>
#include <tuple>

#include "csrc/cpu/kernels.h"
#include "csrc/sequence_primitive.h"

namespace mlx_ncps {
namespace {

constexpr const char* CALL = "program_sequence";

[[noreturn]] void fail(const std::string& message) {
  throw std::invalid_argument("[program] " + message);
}

struct OpName {
  const char* name;
  ProgramOp op;
  int operands;
};
constexpr OpName OPS[] = {
#define NCPS_NAMED(NAME, name, operands) {#name, ProgramOp::NAME, operands},
    NCPS_PROGRAM_OPS(NCPS_NAMED)
#undef NCPS_NAMED
};

const OpName& op_named(const std::string& name) {
  for (const auto& op : OPS)
    if (name == op.name) return op;
  fail("op must be an instruction's name, got '" + name + "'.");
}

std::string number(long n) { return std::to_string(n); }

long elements(const mx::Shape& shape) {
  long count = 1;
  for (int n : shape) count = saturated_product(count, n);
  return count;
}

// The ints of sums, their counterpart and softmaxes, which multiply to the sizes.
void check_blocks(const Instruction& i, ProgramOp op, long in, long out) {
  const bool softmax = op == ProgramOp::SOFTMAX;
  if (i.ints.size() != (softmax ? 2u : 3u)) fail(i.op + " wants its sizes.");
  for (int n : i.ints)
    if (n < 1) fail(i.op + " wants sizes of at least 1.");
  const long outer = i.ints[0], n = i.ints[1], inner = softmax ? 1 : i.ints[2];
  const long all = saturated_product(saturated_product(outer, n), inner);
  const long less = softmax ? all : outer * inner;
  if (op == ProgramOp::EXPAND ? all != out || less != in : all != in || less != out)
    fail(i.op + " has sizes that are not those of its operand and result.");
}

void check_runs(const Instruction& i, long in, long out) {
  if (i.ints.size() % 4) fail("move wants runs of four numbers.");
  for (size_t n = 0; n < i.ints.size(); n += 4) {
    const long to = i.ints[n], from = i.ints[n + 1], length = i.ints[n + 2], by = i.ints[n + 3];
    if (to < 0 || from < 0 || length < 1 || (by != 0 && by != 1) || to + length > out ||
        from + by * (length - 1) >= in)
      fail("move has a run that leaves its operand or result.");
  }
}

}  // namespace

Program::Program(ProgramText text) : text_(std::move(text)) {
  check();
  for (const auto& i : text_.once) once_ops_.push_back(op_named(i.op).op);
  for (const auto& i : text_.step) step_ops_.push_back(op_named(i.op).op);
}

void Program::check() const {
  const auto& t = text_;
  const long values = long(t.sizes.size());
  if (t.varying.size() != t.sizes.size()) fail("sizes and varying must have one entry a value.");
  if (t.steps.empty() || t.states.empty()) fail("a step wants an input and a state.");
  if (first_state() + long(t.states.size()) > values) fail("values must start with the inputs.");
  for (long n : t.sizes)
    if (n < 1 || n > INT_MAX) fail("sizes must lie in [1, 2^31), got " + number(n) + ".");
  std::vector<bool> written(values);
  const auto starts = [&](int id, long size, bool varying) {
    if (t.sizes[id] != size || t.varying[id] != varying)
      fail("value " + number(id) + " must be the input of its place.");
    written[id] = true;
  };
  for (int n = 0; n < first_step(); ++n) starts(n, elements(t.captured[n]), false);
  for (size_t n = 0; n < t.steps.size(); ++n) starts(first_step() + n, t.steps[n], true);
  for (size_t n = 0; n < t.states.size(); ++n) starts(first_state() + n, t.states[n], true);
  for (auto [id, value] : t.constants) {
    if (id < 0 || id >= values || written[id]) fail("a constant must be a value of its own.");
    starts(id, 1, false);
  }
  for (const auto& i : t.once) check_instruction(i, true, written);
  for (const auto& i : t.step) check_instruction(i, false, written);
  const auto ends = [&](int id, long size) {
    if (id < 0 || id >= values || !written[id] || t.sizes[id] != size)
      fail("a result must be a value of its size.");
  };
  if (t.next.size() != t.states.size()) fail("every state wants a next one.");
  for (size_t n = 0; n < t.next.size(); ++n) ends(t.next[n], t.states[n]);
  for (int id : t.outputs) ends(id, id >= 0 && id < values ? t.sizes[id] : 0);
}

void Program::check_instruction(const Instruction& i, bool once, std::vector<bool>& written) const {
  const auto& op = op_named(i.op);
  const long values = long(text_.sizes.size());
  const bool bias = op.op == ProgramOp::MATMUL && i.in.size() == 3;
  const size_t operands = op.op == ProgramOp::MATMUL && !bias ? 2 : op.operands;
  if (i.in.size() != operands) fail(i.op + " wants " + number(operands) + " operands.");
  if (i.out < 0 || i.out >= values || text_.varying[i.out] == once)
    fail(i.op + " must write a value of its part of the program.");
  const bool move = op.op == ProgramOp::MOVE;
  if (i.out < first_state() + int(text_.states.size()) || (written[i.out] && !move))
    fail(i.op + " must write a new value.");
  const long out = text_.sizes[i.out];
  for (int id : i.in)
    if (id < 0 || id >= values || !written[id] || id == i.out || (once && text_.varying[id]))
      fail(i.op + " must read values that are known before it.");
  const auto size = [&](int n) { return text_.sizes[i.in[n]]; };
  written[i.out] = true;
  if (move) return check_runs(i, size(0), out);
  if (op.op == ProgramOp::SUM || op.op == ProgramOp::EXPAND || op.op == ProgramOp::SOFTMAX) {
    if (!once && !text_.varying[i.in[0]]) fail(i.op + " wants a varying operand.");
    return check_blocks(i, op.op, size(0), out);
  }
  if (op.op == ProgramOp::MATMUL) {
    if (once || i.ints.size() != 3) fail("matmul wants k, n, transposed, within a step.");
    const long k = i.ints[0], n = i.ints[1];
    if (k < 1 || n < 1 || size(0) != k || out != n || size(1) != saturated_product(k, n) ||
        (bias && size(2) != n) || !text_.varying[i.in[0]] || text_.varying[i.in[1]] ||
        (bias && text_.varying[i.in[2]]))
      fail("matmul wants a varying row [k], a fixed matrix and bias of its sizes.");
    return;
  }
  for (size_t n = 0; n < i.in.size(); ++n)
    if (size(n) != out && size(n) != 1) fail(i.op + " wants operands of its size or of 1.");
}

// ---- the plan of memory ----

namespace {

long round_up(long n, long to) { return (n + to - 1) / to * to; }

// Places of varying values: blocks that no later instruction reads are used again.
class Places {
 public:
  long take(long floats) {
    auto& free = free_[floats];
    if (!free.empty()) {
      const long at = free.back();
      free.pop_back();
      return at;
    }
    const long at = end_;
    end_ += floats;
    return at;
  }
  void give(long at, long floats) { free_[floats].push_back(at); }
  long end() const { return end_; }

 private:
  std::map<long, std::vector<long>> free_;
  long end_ = 0;
};

// The last instruction of a step that reads a value; INT_MAX for results and inputs.
std::vector<int> last_reads(const ProgramText& t, int inputs) {
  std::vector<int> last(t.sizes.size(), -1);
  for (size_t n = 0; n < t.step.size(); ++n)
    for (int id : t.step[n].in) last[id] = int(n);
  for (int id : t.next) last[id] = INT_MAX;
  for (int id : t.outputs) last[id] = INT_MAX;
  std::fill_n(last.begin(), inputs, INT_MAX);
  return last;
}

}  // namespace

std::shared_ptr<const Program::Plan> Program::plan(int lanes, bool keep) const {
  const auto& t = text_;
  const long panel = 2L * lanes;
  auto plan = std::make_shared<Plan>();
  const auto put = [&](std::vector<ProgramInstruction>& to, const std::vector<Instruction>& from,
                       const std::vector<ProgramOp>& ops) {
    for (size_t n = 0; n < from.size(); ++n) {
      ProgramInstruction i{.op = ops[n], .out = from[n].out, .in = {-1, -1, -1}};
      std::copy(from[n].in.begin(), from[n].in.end(), i.in);
      i.ints = from[n].ints.data(), i.count = int(from[n].ints.size()), i.matrix = -1;
      to.push_back(i);
    }
  };
  put(plan->once, t.once, once_ops_), put(plan->step, t.step, step_ops_);

  // How values are read: by products, as their matrix alone, or by steps otherwise.
  const size_t count = t.sizes.size();
  std::vector<bool> product(count), direct(count, true), in_steps(count);
  for (const auto& i : plan->once)
    for (int id : i.in)
      if (id >= 0) direct[id] = false;
  for (const auto& i : plan->step)
    for (int n = 0; n < 3; ++n) {
      if (i.in[n] < 0) continue;
      const bool matrix = i.op == ProgramOp::MATMUL && n == 1;
      if (i.op == ProgramOp::MATMUL && n == 0) product[i.in[n]] = product[i.out] = true;
      if (!matrix) direct[i.in[n]] = false, in_steps[i.in[n]] = true;
    }
  for (int id : t.next) direct[id] = false, in_steps[id] = true;
  for (int id : t.outputs) direct[id] = false, in_steps[id] = true;

  auto& view = plan->view;
  long fixed = 0, slab = 0;
  const auto constant = [&](int id) {
    return std::any_of(t.constants.begin(), t.constants.end(),
                       [&](const auto& c) { return c.first == id; });
  };
  for (size_t id = 0; id < count; ++id) {
    ProgramValue v{t.sizes[id], 0, -1, t.varying[id], -1};
    v.stride = round_up(v.size, product[id] ? panel : lanes);
    if (!v.varying && !(direct[id] && int(id) < first_step())) {
      v.at = fixed, fixed += round_up(v.size, panel);
      if (in_steps[id] && !constant(int(id))) v.slab_at = slab, slab += round_up(v.size, panel);
    }
    plan->values.push_back(v);
  }

  Places places;
  const auto last = last_reads(t, first_state() + int(t.states.size()));
  const auto place = [&](int id) {
    auto& v = plan->values[id];
    if (v.varying && v.at < 0) v.at = places.take(v.stride);
  };
  for (int id = first_step(); id < first_state() + int(t.states.size()); ++id) place(id);
  for (size_t n = 0; n < t.step.size(); ++n) {
    place(t.step[n].out);
    if (keep) continue;
    auto read = t.step[n].in;
    std::sort(read.begin(), read.end());
    read.erase(std::unique(read.begin(), read.end()), read.end());
    for (int id : read)
      if (last[id] == int(n) && t.varying[id])
        places.give(plan->values[id].at, plan->values[id].stride);
  }

  std::map<std::pair<int, bool>, int> known;
  long panels = 0, back_panels = 0, gradients = 0;
  for (auto& i : plan->step) {
    const auto& out = plan->values[i.out];
    i.flat = out.varying && out.size == out.stride;
    for (int id : i.in)
      if (id >= 0 && (!plan->values[id].varying || plan->values[id].size != out.size ||
                      plan->values[id].stride != out.stride))
        i.flat = false;
    if (i.op != ProgramOp::MATMUL) continue;
    const long k = i.ints[0], n = i.ints[1];
    const bool transposed = i.ints[2] != 0;
    const auto [at, fresh] = known.try_emplace({i.in[1], transposed}, int(plan->matrices.size()));
    i.matrix = at->second;
    if (!fresh) continue;
    plan->matrices.push_back({i.in[1], k, n, transposed, panels, back_panels, gradients});
    panels += round_up(n, panel) * k;
    back_panels += round_up(k, panel) * n;
    gradients += k * round_up(n, panel);
  }
  for (auto [id, value] : t.constants)
    plan->constant_ids.push_back(id), plan->constants.push_back(value);

  view = {.values = int(count),
          .captured = first_step(),
          .steps = int(t.steps.size()),
          .states = int(t.states.size()),
          .outputs = int(t.outputs.size()),
          .constants = int(t.constants.size()),
          .matrices = int(plan->matrices.size()),
          .once = int(t.once.size()),
          .step = int(t.step.size()),
          .value = plan->values.data(),
          .constant_id = plan->constant_ids.data(),
          .constant = plan->constants.data(),
          .once_code = plan->once.data(),
          .step_code = plan->step.data(),
          .matrix = plan->matrices.data(),
          .next = t.next.data(),
          .output = t.outputs.data(),
          .row_floats = places.end(),
          .fixed_floats = fixed,
          .slab_floats = slab};
  return plan;
}

long Program::work() const {
  long all = 0;
  for (const auto& i : text_.step) {
    const long each = i.op == "matmul" ? i.ints[0] : 4;
    all = std::min(all + saturated_product(each, text_.sizes[i.out]), LONG_MAX / 2);
  }
  return all;
}

// ---- the primitive ----

namespace {

// The arrays of a call, as csrc/fields.h lists them.
struct ProgramArrays {
  long B, T;
  std::vector<const float*> steps, states, captured;
  std::vector<float*> dsteps, dstates, dcaptured;
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
  bool resets;

  bool operator==(const ProgramCellOp&) const = default;
  const ProgramText& text() const { return program->text(); }
  int batched() const { return int(text().steps.size() + text().states.size()) + resets; }
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
            .next = p.results.data(),
            .outputs = p.results.data() + next,
            .dnext = p.dresults.data(),
            .doutputs = p.dresults.data() + (p.dresults.empty() ? 0 : next),
            .dcaptured = p.dcaptured.data(),
            .dsteps = p.dsteps.data(),
            .dstates = p.dstates.data()};
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
      for (size_t n = 0; n < p.dstates.size(); ++n)
        std::fill_n(p.dstates[n], p.B * text().states[n], 0.0f);
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
                        const std::optional<mx::array>& resets, mx::StreamOrDevice s_) {
  const auto s = mx::to_stream(s_, mx::Device::cpu);
  const ProgramCellOp op{program, resets.has_value()};
  const auto& t = program->text();
  if (steps.size() != t.steps.size() || states.size() != t.states.size() ||
      captured.size() != t.captured.size())
    throw std::invalid_argument(std::string("[") + CALL + "] wants " + number(t.steps.size()) +
                                " inputs, " + number(t.states.size()) + " states and " +
                                number(t.captured.size()) + " captured arrays, got " +
                                number(steps.size()) + ", " + number(states.size()) + " and " +
                                number(captured.size()) + ".");
  Arrays in = steps;
  in.insert(in.end(), states.begin(), states.end());
  if (resets) in.push_back(mx::astype(*resets, mx::float32, s));
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
