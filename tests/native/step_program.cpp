// See step_program.h.
#include "tests/native/step_program.h"

namespace kernel_tests {

double program_value(ProgramOp op, double a, double b, double c) {
  using enum ProgramOp;
  switch (op) {
    case NEG:
      return -a;
    case ABS:
      return std::abs(a);
    case EXP:
      return std::exp(a);
    case LOG:
      return std::log(a);
    case LOG1P:
      return std::log1p(a);
    case SQRT:
      return std::sqrt(a);
    case RSQRT:
      return 1 / std::sqrt(a);
    case SQUARE:
      return a * a;
    case SIGMOID:
      return 1 / (1 + std::exp(-a));
    case TANH:
      return std::tanh(a);
    case ERF:
      return std::erf(a);
    case SIGN:
      return a > 0 ? 1 : a < 0 ? -1 : a;
    case NOT:
      return a == 0;
    case ADD:
      return a + b;
    case SUB:
      return a - b;
    case MUL:
      return a * b;
    case DIV:
      return a / b;
    case MAX:
      return std::isnan(a) || a > b ? a : b;
    case MIN:
      return std::isnan(a) || a < b ? a : b;
    case LOGADDEXP:
      if (a == b && std::isinf(a)) return a;
      return std::max(a, b) + std::log1p(std::exp(-std::abs(a - b)));
    case GT:
      return a > b;
    case GE:
      return a >= b;
    case LT:
      return a < b;
    case LE:
      return a <= b;
    case EQ:
      return a == b;
    case NE:
      return a != b;
    case AND:
      return a != 0 && b != 0;
    case OR:
      return a != 0 || b != 0;
    case SELECT:
      return a != 0 ? b : c;
    default:
      throw std::runtime_error("program_value() lacks instruction " + std::to_string(int(op)));
  }
}

namespace {

void move(const StepInstruction& i, const Numbers& from, Numbers& to) {
  for (size_t n = 0; n < i.ints.size(); n += 4)
    for (int q = 0; q < i.ints[n + 2]; ++q)
      to[i.ints[n] + q] = from[i.ints[n + 1] + q * i.ints[n + 3]];
}

void sum(const StepInstruction& i, const Numbers& from, Numbers& to) {
  const int mid = i.ints[1], inner = i.ints[2];
  to.assign(to.size(), 0);
  for (size_t q = 0; q < from.size(); ++q) to[q / (mid * inner) * inner + q % inner] += from[q];
}

void expand(const StepInstruction& i, const Numbers& from, Numbers& to) {
  const int mid = i.ints[1], inner = i.ints[2];
  for (size_t q = 0; q < to.size(); ++q) to[q] = from[q / (mid * inner) * inner + q % inner];
}

void softmax(const StepInstruction& i, const Numbers& from, Numbers& to) {
  Numbers all(i.ints[0], 0);
  for (size_t q = 0; q < from.size(); ++q) all[q / i.ints[1]] += std::exp(from[q]);
  for (size_t q = 0; q < from.size(); ++q) to[q] = std::exp(from[q]) / all[q / i.ints[1]];
}

void matmul(const StepInstruction& i, const std::vector<Numbers>& values, Numbers& to) {
  const long k = i.ints[0], n = i.ints[1];
  const Numbers &row = values[i.in[0]], &matrix = values[i.in[1]];
  to = i.in.size() > 2 ? values[i.in[2]] : Numbers(n, 0);
  for (long c = 0; c < n; ++c)
    for (long d = 0; d < k; ++d) to[c] += row[d] * matrix[i.ints[2] ? c * k + d : d * n + c];
}

}  // namespace

void run_in_double(const StepInstruction& i, const StepProgram& program,
                   std::vector<Numbers>& values) {
  Numbers& to = values[i.out];
  to.resize(program.sizes[i.out]);
  const auto at = [&](size_t n, size_t q) {
    if (n >= i.in.size()) return 0.0;
    const Numbers& from = values[i.in[n]];
    return from[from.size() == 1 ? 0 : q];
  };
  if (i.op == ProgramOp::MOVE) return move(i, values[i.in[0]], to);
  if (i.op == ProgramOp::SUM) return sum(i, values[i.in[0]], to);
  if (i.op == ProgramOp::EXPAND) return expand(i, values[i.in[0]], to);
  if (i.op == ProgramOp::SOFTMAX) return softmax(i, values[i.in[0]], to);
  if (i.op == ProgramOp::MATMUL) return matmul(i, values, to);
  for (size_t q = 0; q < to.size(); ++q) to[q] = program_value(i.op, at(0, q), at(1, q), at(2, q));
}

namespace {

long rounded(long n, long to) { return (n + to - 1) / to * to; }

std::vector<ProgramInstruction> as_kernels_read(const std::vector<StepInstruction>& code) {
  std::vector<ProgramInstruction> out;
  for (const auto& i : code) {
    ProgramInstruction to{.op = i.op, .out = i.out, .in = {-1, -1, -1}};
    std::copy(i.in.begin(), i.in.end(), to.in);
    to.ints = i.ints.data(), to.count = int(i.ints.size()), to.matrix = -1;
    out.push_back(to);
  }
  return out;
}

}  // namespace

StepPlan::StepPlan(const StepProgram& p, int lanes)
    : once(as_kernels_read(p.once)), step(as_kernels_read(p.step)) {
  place_values(p, lanes);
  add_matrices(2L * lanes);
  for (auto& i : step) {
    const auto same = [&](int id) {
      return id < 0 || (values[id].varying && values[id].size == values[i.out].size &&
                        values[id].stride == values[i.out].stride);
    };
    i.flat = values[i.out].size == values[i.out].stride && same(i.in[0]) && same(i.in[1]) &&
             same(i.in[2]);
  }
  for (auto [id, value] : p.constants) constant_ids.push_back(id), constants.push_back(value);
  view.values = int(values.size()), view.captured = int(p.captured), view.steps = int(p.inputs);
  view.states = int(p.states), view.outputs = int(p.outputs.size());
  view.constants = int(constants.size()), view.matrices = int(matrices.size());
  view.once = int(once.size()), view.step = int(step.size());
  view.value = values.data(), view.constant_id = constant_ids.data();
  view.constant = constants.data(), view.once_code = once.data(), view.step_code = step.data();
  view.matrix = matrices.data(), view.next = p.next.data(), view.output = p.outputs.data();
}

void StepPlan::place_values(const StepProgram& p, long lanes) {
  const long panel = 2 * lanes;
  const size_t count = p.sizes.size();
  std::vector<bool> product(count), matrix_alone(count, true), in_steps(count);
  const auto read = [&](int id, bool by_step) {
    matrix_alone[id] = false;
    if (by_step) in_steps[id] = true;
  };
  for (const auto& i : p.once)
    for (int id : i.in) read(id, false);
  for (const auto& i : p.step) {
    const bool matmul = i.op == ProgramOp::MATMUL;
    for (size_t n = 0; n < i.in.size(); ++n)
      if (!matmul || n != 1) read(i.in[n], true);
    if (matmul) product[i.in[0]] = product[i.out] = true;
  }
  for (const auto* results : {&p.next, &p.outputs})
    for (int id : *results) read(id, true);
  for (const auto& [id, value] : p.constants) in_steps[id] = false;
  for (size_t id = 0; id < count; ++id) {
    ProgramValue v{p.sizes[id], rounded(p.sizes[id], product[id] ? panel : lanes), -1,
                   p.varying[id], -1};
    const auto take = [&](long& end) {
      end += rounded(v.size, panel);
      return end - rounded(v.size, panel);
    };
    if (v.varying)
      v.at = view.row_floats, view.row_floats += v.stride;
    else if (!matrix_alone[id] || long(id) >= p.captured)
      v.at = take(view.fixed_floats);
    if (!v.varying && in_steps[id]) v.slab_at = take(view.slab_floats);
    values.push_back(v);
  }
}

void StepPlan::add_matrices(long panel) {
  std::map<std::pair<int, bool>, int> known;
  long panels = 0, back_panels = 0, gradients = 0;
  for (auto& i : step) {
    if (i.op != ProgramOp::MATMUL) continue;
    const long k = i.ints[0], n = i.ints[1];
    const bool transposed = i.ints[2] != 0;
    const auto [at, fresh] = known.try_emplace({i.in[1], transposed}, int(matrices.size()));
    i.matrix = at->second;
    if (!fresh) continue;
    matrices.push_back({i.in[1], k, n, transposed, panels, back_panels, gradients});
    panels += rounded(n, panel) * k, back_panels += rounded(k, panel) * n;
    gradients += k * rounded(n, panel);
  }
}

}  // namespace kernel_tests
