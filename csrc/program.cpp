// What a step program must be: see program.h.
#include "csrc/program.h"

#include <algorithm>
#include <climits>
#include <stdexcept>

namespace mlx_ncps {
namespace {

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

long Program::work() const {
  long all = 0;
  for (const auto& i : text_.step) {
    const long each = i.op == "matmul" ? i.ints[0] : 4;
    all = std::min(all + saturated_product(each, text_.sizes[i.out]), LONG_MAX / 2);
  }
  return all;
}

}  // namespace mlx_ncps
