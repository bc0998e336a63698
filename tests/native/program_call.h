// A call of a step program in the tests, checked against what its instructions give in double.
#pragma once

#include "tests/native/step_program.h"

namespace kernel_tests {

struct ProgramSizes {
  long B, T;
};

// What a check draws: numbers of [low, high], `whole`: whole numbers, at which values jump.
struct Range {
  double low = -1.5, high = 1.5;
  bool whole = false;
};

// What steps that start anew read: the states, or others, which are arguments after them.
enum class StartsAnew { NONE, FROM_STATES, FROM_OTHERS };

// Of every result, states then outputs: [B, T, n] each.
inline std::vector<Numbers> results_of(const StepProgram& p, const ProgramSizes& n,
                                       const std::vector<Numbers>& a, const Numbers& resets) {
  std::vector<int> ids = p.next;
  ids.insert(ids.end(), p.outputs.begin(), p.outputs.end());
  std::vector<Numbers> results(ids.size()), values(p.sizes.size());
  for (long id = 0; id < p.captured; ++id) values[id] = a[id];
  for (auto [id, value] : p.constants) values[id] = {value};
  for (const auto& i : p.once) run_in_double(i, p, values);
  const auto row = [&](int id, long further, long r) {
    const auto at = a[id + further].begin() + r * p.sizes[id];
    return Numbers(at, at + p.sizes[id]);
  };
  for (long b = 0; b < n.B; ++b)
    for (long t = 0; t < n.T; ++t) {
      std::vector<Numbers> carried;
      for (int id : p.next) carried.push_back(values[id]);
      const bool anew = !resets.empty() && resets[b * n.T + t] != 0;
      const long others = anew ? long(a.size()) - p.state(p.states) : 0;  // behind the states
      for (long s = 0; s < p.states; ++s)
        values[p.state(s)] = anew || t == 0 ? row(p.state(s), others, b) : carried[s];
      for (long s = 0; s < p.inputs; ++s) values[p.input(s)] = row(p.input(s), 0, b * n.T + t);
      for (const auto& i : p.step) run_in_double(i, p, values);
      for (size_t r = 0; r < ids.size(); ++r)
        results[r].insert(results[r].end(), values[ids[r]].begin(), values[ids[r]].end());
    }
  return results;
}

// The arrays of a call, of their exact sizes, and the call.
struct ProgramCall {
  std::vector<Numbers> a, cotangents;
  std::vector<Exact> in, gradients, out, dout;
  std::vector<const float*> in_at, dout_at;
  std::vector<float*> gradients_at, out_at;
  Numbers resets;
  Exact resets_in{0};
  StepPlan plan;
  ProgramProblem problem{};

  ProgramCall(const StepProgram& p, const ProgramSizes& n, const Range& range, StartsAnew anew)
      : plan(p, kernels().lanes) {
    Draw draw{std::mt19937(unsigned(n.B + 100 * n.T + 7 * p.sizes.size()))};
    std::vector<int> ids(p.state(p.states));
    for (int id = 0; id < int(ids.size()); ++id) ids[id] = id;
    for (int s = 0; anew == StartsAnew::FROM_OTHERS && s < p.states; ++s) ids.push_back(p.state(s));
    for (int id : ids) {
      const long rows = id < p.input(0) ? 1 : id < p.state(0) ? n.B * n.T : n.B;
      a.push_back(draw(rows * p.sizes[id], range.low, range.high));
      if (range.whole)
        for (auto& v : a.back()) v = std::round(v);
      in.emplace_back(a.back()), gradients.emplace_back(a.back().size());
    }
    for (const auto* results : {&p.next, &p.outputs})
      for (int id : *results) {
        cotangents.push_back(draw(n.B * n.T * p.sizes[id], -1, 1));
        dout.emplace_back(cotangents.back()), out.emplace_back(cotangents.back().size());
      }
    if (anew != StartsAnew::NONE) resets = draw(n.B * n.T, -1, 1);
    for (auto& each : resets) each = each > 0.3 ? 2.5 : 0;
    resets_in = Exact(resets);
    for (const auto& each : in) in_at.push_back(each.get());
    for (const auto& each : gradients) gradients_at.push_back(each.get());
    for (const auto& each : out) out_at.push_back(each.get());
    for (const auto& each : dout) dout_at.push_back(each.get());
    auto& q = problem;
    q.plan = &plan.view, q.B = n.B, q.T = n.T;
    q.captured = in_at.data(), q.dcaptured = gradients_at.data();
    q.steps = q.captured + p.captured, q.dsteps = q.dcaptured + p.captured;
    q.states = q.steps + p.inputs, q.dstates = q.dsteps + p.inputs;
    q.next = out_at.data(), q.outputs = q.next + p.states;
    q.dnext = dout_at.data(), q.doutputs = q.dnext + p.states;
    q.resets = anew == StartsAnew::NONE ? nullptr : resets_in.get();
    const long others = anew == StartsAnew::FROM_OTHERS ? p.states : 0;
    q.reset_states = q.states + others, q.dreset_states = q.dstates + others;
  }
  ProgramCall(const ProgramCall&) = delete;
};

inline void run_packed(const ProgramProblem& problem) {
  void* packed = kernels().new_packed_program(problem);
  auto of_call = problem;
  of_call.captured = nullptr;
  kernels().run_packed_program(packed, of_call);
  kernels().free_packed_program(packed);
}

inline void check_program(const std::string& what, const StepProgram& p, const ProgramSizes& n,
                          const Range& range = {}, StartsAnew anew = StartsAnew::NONE) {
  ProgramCall call(p, n, range, anew);
  const auto run = [&] {
    kernels().program_forward(call.problem);
    kernels().program_backward(call.problem);
  };
  run();
  const std::string name = std::string(kernels().name) + " program " + what + " B" +
                           std::to_string(n.B) + " T" + std::to_string(n.T) + " anew " +
                           std::to_string(int(anew));
  const auto want = results_of(p, n, call.a, call.resets);
  for (size_t r = 0; r < want.size(); ++r)
    check_close(name + " result " + std::to_string(r), call.out[r], Exact(0), want[r]);
  if (range.whole) return;
  check_gradient(name + " gradient", call.a, call.gradients, {}, [&](const auto& x) {
    const auto results = results_of(p, n, x, call.resets);
    double loss = 0;
    for (size_t r = 0; r < results.size(); ++r) loss += dot(results[r], call.cotangents[r]);
    return loss;
  });
  std::vector<const Exact*> arguments, outputs, results;
  for (const auto& each : call.out) results.push_back(&each);
  check_packed(name, results, [&] { run_packed(call.problem); });
  for (size_t id = p.input(0); id < call.in.size(); ++id)
    arguments.push_back(&call.in[id]), outputs.push_back(&call.gradients[id]);
  for (const auto& each : call.dout) arguments.push_back(&each);
  for (const auto& each : call.out) outputs.push_back(&each);
  check_rows_apart(name, n.B, arguments, outputs, run);
  if (n.B == 0 || n.T == 0) return;
  check_gives_up(name, [&] { kernels().program_forward(call.problem); });
  check_gives_up(name, [&] { kernels().program_backward(call.problem); });
}

}  // namespace kernel_tests
