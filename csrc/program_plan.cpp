// Where the values of a step program lie: see program.h.
#include <algorithm>
#include <climits>
#include <map>

#include "csrc/program.h"

namespace mlx_ncps {
namespace {

using Plan = Program::Plan;

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

std::vector<ProgramInstruction> instructions(const std::vector<Instruction>& from,
                                             const std::vector<ProgramOp>& ops) {
  std::vector<ProgramInstruction> to;
  for (size_t n = 0; n < from.size(); ++n) {
    ProgramInstruction i{.op = ops[n], .out = from[n].out, .in = {-1, -1, -1}};
    std::copy(from[n].in.begin(), from[n].in.end(), i.in);
    i.ints = from[n].ints.data(), i.count = int(from[n].ints.size()), i.matrix = -1;
    to.push_back(i);
  }
  return to;
}

// How values are read: as a row of a product or its result, as a matrix of products alone, or by
// steps otherwise.
struct Uses {
  std::vector<bool> product, direct, in_steps;
  Uses(const ProgramText& t, const Plan& plan)
      : product(t.sizes.size()), direct(t.sizes.size(), true), in_steps(t.sizes.size()) {
    for (const auto& i : plan.once)
      for (int id : i.in)
        if (id >= 0) direct[id] = false;
    for (const auto& i : plan.step)
      for (int n = 0; n < 3; ++n) {
        if (i.in[n] < 0) continue;
        const bool matrix = i.op == ProgramOp::MATMUL && n == 1;
        if (i.op == ProgramOp::MATMUL && n == 0) product[i.in[n]] = product[i.out] = true;
        if (!matrix) by_steps(i.in[n]);
      }
    for (int id : t.next) by_steps(id);
    for (int id : t.outputs) by_steps(id);
  }

 private:
  void by_steps(int id) { direct[id] = false, in_steps[id] = true; }
};

// The table of values, with the places of fixed ones.
void place_fixed(const ProgramText& t, int captured, long lanes, Plan& plan) {
  const Uses uses(t, plan);
  const long panel = 2 * lanes;
  const auto constant = [&](int id) {
    return std::any_of(t.constants.begin(), t.constants.end(),
                       [&](const auto& c) { return c.first == id; });
  };
  long fixed = 0, slab = 0;
  for (int id = 0; id < int(t.sizes.size()); ++id) {
    ProgramValue v{t.sizes[id], 0, -1, t.varying[id], -1};
    v.stride = round_up(v.size, uses.product[id] ? panel : lanes);
    if (!v.varying && !(uses.direct[id] && id < captured)) {
      v.at = fixed, fixed += round_up(v.size, panel);
      if (uses.in_steps[id] && !constant(id)) v.slab_at = slab, slab += round_up(v.size, panel);
    }
    plan.values.push_back(v);
  }
  plan.view.fixed_floats = fixed, plan.view.slab_floats = slab;
}

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

// The places of varying values. inputs: ids of captured arrays, steps and states end there.
void place_varying(const ProgramText& t, int captured, int inputs, bool keep, Plan& plan) {
  Places places;
  const auto last = last_reads(t, inputs);
  const auto place = [&](int id) {
    auto& v = plan.values[id];
    if (v.varying && v.at < 0) v.at = places.take(v.stride);
  };
  for (int id = captured; id < inputs; ++id) place(id);
  for (size_t n = 0; n < t.step.size(); ++n) {
    place(t.step[n].out);
    if (keep) continue;
    auto read = t.step[n].in;
    std::sort(read.begin(), read.end());
    read.erase(std::unique(read.begin(), read.end()), read.end());
    for (int id : read)
      if (last[id] == int(n) && t.varying[id])
        places.give(plan.values[id].at, plan.values[id].stride);
  }
  plan.view.row_floats = places.end();
}

// Which instructions run over all rows as one.
void mark_flat(Plan& plan) {
  for (auto& i : plan.step) {
    const auto& out = plan.values[i.out];
    i.flat = out.varying && out.size == out.stride;
    for (int id : i.in)
      if (id >= 0 && (!plan.values[id].varying || plan.values[id].size != out.size ||
                      plan.values[id].stride != out.stride))
        i.flat = false;
  }
}

// The matrices of products, each once.
void collect_matrices(long lanes, Plan& plan) {
  const long panel = 2 * lanes;
  std::map<std::pair<int, bool>, int> known;
  long panels = 0, back_panels = 0, gradients = 0;
  for (auto& i : plan.step) {
    if (i.op != ProgramOp::MATMUL) continue;
    const long k = i.ints[0], n = i.ints[1];
    const bool transposed = i.ints[2] != 0;
    const auto [at, fresh] = known.try_emplace({i.in[1], transposed}, int(plan.matrices.size()));
    i.matrix = at->second;
    if (!fresh) continue;
    plan.matrices.push_back({i.in[1], k, n, transposed, panels, back_panels, gradients});
    panels += round_up(n, panel) * k;
    back_panels += round_up(k, panel) * n;
    gradients += k * round_up(n, panel);
  }
}

}  // namespace

std::shared_ptr<const Program::Plan> Program::plan(int lanes, bool keep) const {
  const auto& t = text_;
  auto plan = std::make_shared<Plan>();
  plan->once = instructions(t.once, once_ops_), plan->step = instructions(t.step, step_ops_);
  place_fixed(t, first_step(), lanes, *plan);
  place_varying(t, first_step(), first_state() + int(t.states.size()), keep, *plan);
  mark_flat(*plan);
  collect_matrices(lanes, *plan);
  for (auto [id, value] : t.constants)
    plan->constant_ids.push_back(id), plan->constants.push_back(value);

  auto& view = plan->view;
  view.values = int(t.sizes.size()), view.captured = first_step();
  view.steps = int(t.steps.size()), view.states = int(t.states.size());
  view.outputs = int(t.outputs.size()), view.constants = int(t.constants.size());
  view.matrices = int(plan->matrices.size());
  view.once = int(t.once.size()), view.step = int(t.step.size());
  view.value = plan->values.data(), view.matrix = plan->matrices.data();
  view.constant_id = plan->constant_ids.data(), view.constant = plan->constants.data();
  view.once_code = plan->once.data(), view.step_code = plan->step.data();
  view.next = t.next.data(), view.output = t.outputs.data();
  return plan;
}

}  // namespace mlx_ncps
