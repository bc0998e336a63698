// See ltc.h. Inputs of the primitives: LtcOp::fields; the backward adds v, saved, dv, and returns
// one gradient for each of the former.
#include "csrc/ltc.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <limits>
#include <mutex>
#include <sstream>
#include <stdexcept>

#include "csrc/at_once.h"
#include "csrc/mixed_memory.h"
#include "csrc/seen.h"
#include "csrc/sequence_primitive.h"
#include "metal/activations.h"
#include "metal/ltc.h"

namespace mlx_ncps {
namespace {

template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  message << "[ltc_sequence] ";
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

// A solver: its name, and how often an unfold evaluates the recurrent synapses. In the order of
// their numbers.
struct Solver {
  const char* name;
  int stages;
};
#define NCPS_SOLVER(NAME, name, stages) {#name, stages},
constexpr Solver SOLVERS[] = {NCPS_LTC_SOLVERS(NCPS_SOLVER)};
#undef NCPS_SOLVER

int solver_number(const std::string& name) {
  std::string names;
  for (int n = 0; n < NCPS_LTC_SOLVER_COUNT; ++n) {
    if (name == SOLVERS[n].name) return n;
    names += std::string(n > 0 ? ", " : "") + SOLVERS[n].name;
  }
  fail("solver must be one of ", names, ", got '", name, "'.");
}

struct LtcOp {
  static constexpr const char *NAME = "LtcSequence", *BACKWARD_NAME = "LtcSequenceBackward",
                              *MIXED_NAME = "LtcMixedSequence",
                              *MIXED_BACKWARD_NAME = "LtcMixedSequenceBackward",
                              *CALL = "ltc_sequence";
  static constexpr int STATES = 1;
  using Problem = LtcProblem;

  int unfolds;
  int solver = NCPS_LTC_SEMI_IMPLICIT;
  LtcKernel kernel = LtcKernel::DENSE;  // and so the layout of `saved`
  int element =
      0;  // rows of an element of a mapped batch, in which `saved` stays per element; or 0
  // One table for forward and backward: `saved` depends on its lanes.
  const Kernels* kernels = &mlx_ncps::kernels();
  std::shared_ptr<const SynapseLists> synapses{};  // set where LISTS
  bool resets = false;

  bool operator==(const LtcOp&) const = default;
  int inputs() const { return count_fields(*this, shaped()); }
  int batched() const { return 3 + 2 * int(resets); }
  LtcOp of_mapped(int rows) const {
    auto op = *this;
    if (element == 0) op.element = rows;
    return op;
  }

  // Every input: its shape, and where the kernels' problem holds it and its gradient.
  template <typename F>
  void fields(Problem& p, const F& f) const {
    f("x", "[B, T, I]", {p.B, p.T, p.I}, p.x, p.dx);
    f("v0", "[B, H]", {p.B, p.H}, p.v0, p.dv0);
    f("ts", "[B, T]", {p.B, p.T}, p.ts, p.dts);
    if (resets) resets_fields(p.resets, p.B, p.T, p.H, f);
    f("cm", "[H]", {p.H}, p.cm, p.dcm);
    f("leak_num", "[H]", {p.H}, p.leak_num, p.dleak_num);
    f("leak_den", "[H]", {p.H}, p.leak_den, p.dleak_den);
    f("s2", "[H, H]", {p.H, p.H}, p.recurrent.s2, p.drecurrent.s2);
    f("m2", "[H, H]", {p.H, p.H}, p.recurrent.m2, p.drecurrent.m2);
    f("w", "[H, H]", {p.H, p.H}, p.recurrent.w, p.drecurrent.w);
    f("we", "[H, H]", {p.H, p.H}, p.recurrent.we, p.drecurrent.we);
    f("sensory_s2", "[I, H]", {p.I, p.H}, p.sensory.s2, p.dsensory.s2);
    f("sensory_m2", "[I, H]", {p.I, p.H}, p.sensory.m2, p.dsensory.m2);
    f("sensory_w", "[I, H]", {p.I, p.H}, p.sensory.w, p.dsensory.w);
    f("sensory_we", "[I, H]", {p.I, p.H}, p.sensory.we, p.dsensory.we);
  }
  Problem shaped() const { return {.U = unfolds, .solver = solver}; }  // but for sizes of arrays
  long evaluations() const { return long(unfolds) * SOLVERS[solver].stages; }
  Problem sized(const Arrays& in) const {
    auto p = shaped();
    set_sizes(p, CALL, "v0", in);
    p.element = element > 0 ? element : p.B;
    if (unfolds < 1) fail("unfolds must be at least 1, got ", unfolds, ".");
    size_of(CALL, "unfolds times stages", evaluations());
    if (element > 0 && p.B % element != 0)
      fail("the batch must be a multiple of the mapped elements' rows, got ", int(p.B), ".");
    if (synapses && (synapses->inputs != p.I || synapses->units != p.H))
      fail("synapses must be of (inputs, units) = (", int(p.I), ", ", int(p.H), "), got (",
           synapses->inputs, ", ", synapses->units, ").");
    return p;
  }
  mx::Shape states_shape(const Arrays& in) const { return mlx_ncps::states_shape(in); }
  std::vector<int> saved_batch_axes() const { return {0}; }
  Shapes saved_shapes(const Arrays& in) const {
    const int B = in[0].shape(0), T = in[0].shape(1), H = in[1].shape(1);
    return {{B, T, int(evaluations()), 2, H}};  // sized() has seen that it fits
  }

  Problem problem(const Arrays& in) const {
    auto p = sized(in);
    read_fields(*this, p, in);
    if (kernel == LtcKernel::LISTS) {
      p.recurrent_list = synapses->recurrent.data(),
      p.recurrent_count = long(synapses->recurrent.size());
      p.sensory_list = synapses->sensory.data(), p.sensory_count = long(synapses->sensory.size());
    }
    return p;
  }

  Problem forward_problem(const Arrays& in, Arrays outputs) const {
    auto p = problem(in);
    p.v = outputs[0].data<float>();
    p.saved = outputs.size() > 1 ? outputs[1].data<float>() : nullptr;
    return p;
  }
  void forward(const LtcProblem& p) const { kernels->ltc_forward(p, kernel); }

  Problem backward_problem(const Arrays& in, Arrays outputs) const {
    auto p = problem(in);
    p.v = const_cast<float*>(in[inputs()].data<float>());
    p.saved = const_cast<float*>(in[inputs() + 1].data<float>());
    p.dv = in[inputs() + 2].data<float>();
    write_fields(*this, p, outputs);
    return p;
  }
  void backward(const LtcProblem& p) const { kernels->ltc_backward(p, kernel); }
};

std::vector<Synapse> sorted(const std::vector<int>& source, const std::vector<int>& target,
                            int sources, int units, const char* name) {
  if (source.size() != target.size())
    throw std::invalid_argument(
        std::string("[SynapseLists] ") + name + " source and target must have equal lengths, got " +
        std::to_string(source.size()) + " and " + std::to_string(target.size()) + ".");
  if (sources < 0 || units < 0)
    throw std::invalid_argument("[SynapseLists] inputs and units must be at least 0.");
  std::vector<Synapse> list;
  for (size_t e = 0; e < source.size(); ++e) {
    if (source[e] < 0 || source[e] >= sources || target[e] < 0 || target[e] >= units)
      throw std::invalid_argument(
          std::string("[SynapseLists] ") + name + " synapse " + std::to_string(e) +
          " must lie in [" + std::to_string(sources) + ", " + std::to_string(units) + "], got (" +
          std::to_string(source[e]) + ", " + std::to_string(target[e]) + ").");
    list.push_back({source[e], target[e]});
  }
  const auto key = [](const Synapse& s) { return std::pair(s.target, s.source); };
  std::sort(list.begin(), list.end(),
            [&](const Synapse& a, const Synapse& b) { return key(a) < key(b); });
  for (size_t e = 1; e < list.size(); ++e)
    if (key(list[e]) == key(list[e - 1]))
      throw std::invalid_argument(std::string("[SynapseLists] ") + name + " synapse (" +
                                  std::to_string(list[e].source) + ", " +
                                  std::to_string(list[e].target) + ") occurs twice.");
  return list;
}

std::shared_ptr<const SynapseLists> make_all_synapses(int inputs, int units) {
  std::vector<int> source, target, sensory_source, sensory_target;
  for (int j = 0; j < units; ++j) {
    for (int i = 0; i < units; ++i) source.push_back(i), target.push_back(j);
    for (int i = 0; i < inputs; ++i) sensory_source.push_back(i), sensory_target.push_back(j);
  }
  return std::make_shared<SynapseLists>(source, target, sensory_source, sensory_target, inputs,
                                        units);
}

// The lists of a full matrix, made once for the sizes that were asked for last.
std::shared_ptr<const SynapseLists> all_synapses(int inputs, int units) {
  constexpr size_t KEPT = 8;
  static std::mutex mutex;
  static std::deque<std::shared_ptr<const SynapseLists>> newest;
  const std::lock_guard lock(mutex);
  const auto same = [&](const auto& lists) {
    return lists->inputs == inputs && lists->units == units;
  };
  const auto known = std::find_if(newest.begin(), newest.end(), same);
  if (known != newest.end()) return *known;
  newest.push_front(make_all_synapses(inputs, units));
  if (newest.size() > KEPT) newest.pop_back();
  return newest.front();
}

// Pairs of a source and a block of `lanes` targets that have a synapse.
long count_blocks(const std::vector<Synapse>& list, int sources, int lanes) {
  std::vector<int> last(sources, -1);  // the block counted last; the list is sorted by target
  long count = 0;
  for (const auto& s : list)
    if (s.target / lanes != last[s.source]) last[s.source] = s.target / lanes, ++count;
  return count;
}

// Gates that the forward evaluates, in whole vectors: lanes across neurons waste the tail of H and
// absent synapses, lanes across rows the tail of B. A gate of a list costs LISTED of a dense one,
// for its four numbers are read one by one. A single block of rows is one task, where the dense
// kernel has one for each row: with `threads` it counts twice, whatever the number of threads is,
// on which no bit may depend. The backward follows.
constexpr double LISTED = 1.25;
bool prefers_lists(long B, long I, long H, long E, const SynapseLists* synapses, bool threads) {
  const long lanes = kernels().lanes, row_blocks = (B + lanes - 1) / lanes;
  const double all = double(E) * H + I;  // no limit to E
  double dense = (H + lanes - 1) / lanes * all, listed = H * all;
  if (synapses) {
    const auto blocks = synapses->blocks(lanes);
    dense = double(E) * blocks.recurrent + blocks.sensory;
    listed = double(E) * synapses->recurrent.size() + double(synapses->sensory.size());
  }
  const double alone = threads && row_blocks == 1 ? 2 : 1;
  return alone * LISTED * row_blocks * listed < B * dense;
}

}  // namespace

SynapseLists::SynapseLists(std::vector<int> source, std::vector<int> target,
                           std::vector<int> sensory_source, std::vector<int> sensory_target,
                           int inputs_, int units_)
    : inputs(inputs_),
      units(units_),
      recurrent(sorted(source, target, units_, units_, "recurrent")),
      sensory(sorted(sensory_source, sensory_target, inputs_, units_, "sensory")) {
  ++made;
  for (int n = 0; n < 3; ++n)
    blocks_[n] = {count_blocks(recurrent, units, 4 << n), count_blocks(sensory, inputs, 4 << n)};
}

long ltc_evaluations(int unfolds, const std::string& solver) {
  return LtcOp{.unfolds = unfolds, .solver = solver_number(solver)}.evaluations();
}

std::optional<double> largest_rate(const Arrays& parameters, bool implicit) {
  if (parameters.size() != 6 || parameters[0].ndim() != 1 || parameters[3].ndim() != 2)
    return std::nullopt;
  const int H = parameters[0].shape(0), I = parameters[3].shape(0);
  const mx::Shape shapes[] = {{H}, {H}, {H, H}, {I, H}, {H, H}, {I, H}};
  const float* at[6];
  for (int i = 0; i < 6; ++i) {
    at[i] = values_of(behind_copies(parameters[i]));
    if (!at[i] || parameters[i].shape() != shapes[i]) return std::nullopt;
  }
  const auto positive = [&](float p) {
    return implicit ? std::max(p, 0.0f) + std::log1p(std::exp(-std::abs(p))) : p;
  };
  std::vector<double> total(H);
  for (int j = 0; j < H; ++j) total[j] = std::abs(positive(at[0][j]));
  for (const auto [w, mask, sources] : {std::tuple(at[2], at[4], H), {at[3], at[5], I}})
    for (long i = 0; i < sources; ++i)
      for (long j = 0; j < H; ++j)
        if (const float m = mask[i * H + j]; m != 0.0f)
          total[j] += std::abs(positive(w[i * H + j]) * m);
  double largest = 0.0;
  for (int j = 0; j < H; ++j) {
    const float cm = positive(at[1][j]);
    const double rate = cm > 0 ? total[j] / cm : std::numeric_limits<double>::infinity();
    if (!(rate <= largest)) largest = rate;
    if (std::isnan(rate)) break;
  }
  return largest;
}

LtcKernel choose_ltc_kernel(int B, int I, int H, long evaluations, const SynapseLists* synapses,
                            bool threads) {
  return prefers_lists(B, I, H, evaluations, synapses, threads) ? LtcKernel::LISTS
                                                                : LtcKernel::DENSE;
}

States ltc_sequence(const mx::array& x, const mx::array& v0, const mx::array& ts,
                    const Arrays& folded, int unfolds, const std::string& solver,
                    std::shared_ptr<const SynapseLists> synapses,
                    const std::optional<Arrays>& memory, const std::optional<Arrays>& resets,
                    bool save, mx::StreamOrDevice s_) {
  const auto s = mx::to_stream(s_, mx::Device::cpu);
  Arrays inputs{x, v0, ts};
  add_resets(LtcOp::CALL, resets, memory.has_value(), inputs);
  inputs.insert(inputs.end(), folded.begin(), folded.end());
  LtcOp op{.unfolds = unfolds,
           .solver = solver_number(solver),
           .synapses = synapses,
           .resets = resets.has_value()};
  check_count(op, inputs);
  check_inputs(op, inputs);
  const int B = x.shape(0), I = x.shape(2), H = v0.shape(1);
  op.kernel = choose_ltc_kernel(B, I, H, op.evaluations(), synapses.get());
  if (op.kernel == LtcKernel::DENSE)
    op.synapses = nullptr;
  else if (!synapses)
    op.synapses = all_synapses(I, H);
  if (memory) return mixed_states(std::move(op), inputs, *memory, resets, save, s);
  return sequence_states(std::move(op), inputs, save, x.dtype(), s)[0];
}

LtcProblem ltc_cell(const Arrays& folded, int unfolds, const std::string& solver,
                    const std::shared_ptr<const SynapseLists>& synapses) {
  if (folded.size() != 11 || folded[0].ndim() != 1 || folded[7].ndim() != 2)
    throw std::invalid_argument("[ltc_cell] wants the eleven folded arrays of an LTC.");
  const int H = folded[0].shape(0), I = folded[7].shape(0);
  const char* name = LtcOp::CALL;
  Arrays in{empty_array(name, {1, 1, I}), empty_array(name, {1, H}), empty_array(name, {1, 1})};
  in.insert(in.end(), folded.begin(), folded.end());
  LtcOp op{.unfolds = unfolds, .solver = solver_number(solver), .synapses = synapses};
  check_inputs(op, in);
  op.synapses = nullptr;
  auto p = op.problem(in);
  if (!synapses) return p;
  static const Synapse none{};  // an empty vector may have no address, and null means no lists
  const auto data = [](const auto& list) { return list.empty() ? &none : list.data(); };
  p.recurrent_list = data(synapses->recurrent), p.sensory_list = data(synapses->sensory);
  p.recurrent_count = long(synapses->recurrent.size());
  p.sensory_count = long(synapses->sensory.size());
  return p;
}

}  // namespace mlx_ncps
