// See ltc.h. Inputs of the primitives, in order: x, v0, ts, cm, leak_num, leak_den, s2, m2, w, we,
// sensory_s2, sensory_m2, sensory_w, sensory_we; the backward adds v, saved, dv, and returns one
// gradient for each of the fourteen.
#include "csrc/ltc.h"

#include <algorithm>
#include <stdexcept>

#include "csrc/mixed_memory.h"
#include "csrc/sequence_primitive.h"

namespace mlx_ncps {
namespace {

constexpr int INPUTS = 14;

SynapseMatrices matrices(const Arrays& in, int first) {
  return {in[first].data<float>(), in[first + 1].data<float>(), in[first + 2].data<float>(),
          in[first + 3].data<float>()};
}

struct LtcOp {
  static constexpr const char *NAME = "LtcSequence", *BACKWARD_NAME = "LtcSequenceBackward",
                              *MIXED_NAME = "LtcMixedSequence",
                              *MIXED_BACKWARD_NAME = "LtcMixedSequenceBackward",
                              *CALL = "ltc_sequence";
  static constexpr int STATES = 1;

  int unfolds;
  bool batch_lanes;  // the kernel with synapse lists, and its layout of `saved`
  int element;  // rows of a call: a mapped batch has a multiple, in which `saved` stays per call
  const Kernels* kernels;  // one table for forward and backward: `saved` depends on its lanes
  std::shared_ptr<const SynapseLists> synapses;  // set where batch_lanes

  bool operator==(const LtcOp&) const = default;
  int inputs() const { return INPUTS; }
  int batched() const { return 3; }
  mx::Shape states_shape(const Arrays& in) const { return mlx_ncps::states_shape(in); }
  std::vector<int> saved_batch_axes() const { return {0}; }
  std::vector<mx::Shape> saved_shapes(const Arrays& in) const {
    const int B = in[0].shape(0), T = in[0].shape(1), H = in[1].shape(1);
    return {{B, T, unfolds, 2, H}};
  }

  LtcProblem problem(const Arrays& in) const {
    LtcProblem p{};
    p.B = in[0].shape(0), p.T = in[0].shape(1), p.I = in[0].shape(2), p.H = in[1].shape(1),
    p.U = unfolds, p.element = element;
    p.x = in[0].data<float>(), p.v0 = in[1].data<float>(), p.ts = in[2].data<float>();
    p.cm = in[3].data<float>(), p.leak_num = in[4].data<float>(), p.leak_den = in[5].data<float>();
    p.recurrent = matrices(in, 6), p.sensory = matrices(in, 10);
    if (batch_lanes) {
      p.recurrent_list = synapses->recurrent.data(),
      p.recurrent_count = long(synapses->recurrent.size());
      p.sensory_list = synapses->sensory.data(), p.sensory_count = long(synapses->sensory.size());
    }
    return p;
  }

  LtcProblem forward_problem(const Arrays& in, Arrays outputs) const {
    auto p = problem(in);
    p.v = outputs[0].data<float>();
    p.saved = outputs.size() > 1 ? outputs[1].data<float>() : nullptr;
    return p;
  }
  void forward(const LtcProblem& p) const { kernels->ltc_forward(p, batch_lanes); }

  LtcProblem backward_problem(const Arrays& in, Arrays outputs) const {
    auto p = problem(in);
    const auto out = [&](int i) { return outputs[i].data<float>(); };
    p.v = const_cast<float*>(in[INPUTS].data<float>());
    p.saved = const_cast<float*>(in[INPUTS + 1].data<float>());
    p.dv = in[INPUTS + 2].data<float>();
    p.dx = out(0), p.dv0 = out(1), p.dts = out(2), p.dcm = out(3), p.dleak_num = out(4),
    p.dleak_den = out(5);
    p.drecurrent = {out(6), out(7), out(8), out(9)};
    p.dsensory = {out(10), out(11), out(12), out(13)};
    return p;
  }
  void backward(const LtcProblem& p) const { kernels->ltc_backward(p, batch_lanes); }
};

std::vector<Synapse> sorted(const std::vector<int>& source, const std::vector<int>& target,
                            int sources, int units, const char* name) {
  if (source.size() != target.size())
    throw std::invalid_argument(
        std::string("[SynapseLists] ") + name + " source and target must have equal lengths, got " +
        std::to_string(source.size()) + " and " + std::to_string(target.size()) + ".");
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

std::shared_ptr<const SynapseLists> all_synapses(int inputs, int units) {
  std::vector<int> source, target, sensory_source, sensory_target;
  for (int j = 0; j < units; ++j) {
    for (int i = 0; i < units; ++i) source.push_back(i), target.push_back(j);
    for (int i = 0; i < inputs; ++i) sensory_source.push_back(i), sensory_target.push_back(j);
  }
  return std::make_shared<SynapseLists>(source, target, sensory_source, sensory_target, inputs,
                                        units);
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
// absent synapses, lanes across rows the tail of B. The backward follows, although its dense kernel
// evaluates all absent synapses: it does so on all threads where the lists have but one task.
bool prefers_lists(long B, long I, long H, long U, const SynapseLists* synapses) {
  const long lanes = kernels().lanes, all = U * H + I;
  long dense = (H + lanes - 1) / lanes * all, listed = H * all;
  if (synapses) {
    const auto blocks = synapses->blocks(lanes);
    dense = U * blocks.recurrent + blocks.sensory;
    listed = U * long(synapses->recurrent.size()) + long(synapses->sensory.size());
  }
  return (B + lanes - 1) / lanes * listed < B * dense;
}

}  // namespace

SynapseLists::SynapseLists(std::vector<int> source, std::vector<int> target,
                           std::vector<int> sensory_source, std::vector<int> sensory_target,
                           int inputs_, int units_)
    : inputs(inputs_),
      units(units_),
      recurrent(sorted(source, target, units_, units_, "recurrent")),
      sensory(sorted(sensory_source, sensory_target, inputs_, units_, "sensory")) {
  for (int n = 0; n < 3; ++n)
    blocks_[n] = {count_blocks(recurrent, units, 4 << n), count_blocks(sensory, inputs, 4 << n)};
}

const char* ltc_kernel(int B, int I, int H, int unfolds, const SynapseLists* synapses) {
  return prefers_lists(B, I, H, unfolds, synapses) ? "lists" : "dense";
}

States ltc_sequence(const mx::array& x, const mx::array& v0, const mx::array& ts,
                    const mx::array& cm, const mx::array& leak_num, const mx::array& leak_den,
                    const mx::array& s2, const mx::array& m2, const mx::array& w,
                    const mx::array& we, const mx::array& sensory_s2, const mx::array& sensory_m2,
                    const mx::array& sensory_w, const mx::array& sensory_we, int unfolds,
                    std::shared_ptr<const SynapseLists> synapses,
                    const std::optional<Arrays>& memory, bool save, mx::StreamOrDevice s_) {
  const auto s = mx::to_stream(s_, mx::Device::cpu);
  if (x.ndim() != 3)
    throw std::invalid_argument("[ltc_sequence] x must be [B, T, I], got " +
                                std::to_string(x.ndim()) + " dimensions.");
  if (v0.ndim() != 2)
    throw std::invalid_argument("[ltc_sequence] v0 must be [B, H], got " +
                                std::to_string(v0.ndim()) + " dimensions.");
  if (unfolds < 1)
    throw std::invalid_argument("[ltc_sequence] unfolds must be at least 1, got " +
                                std::to_string(unfolds) + ".");
  const int B = x.shape(0), T = x.shape(1), I = x.shape(2), H = v0.shape(1);
  const Arrays all{x,  v0, ts, cm,         leak_num,   leak_den,  s2,
                   m2, w,  we, sensory_s2, sensory_m2, sensory_w, sensory_we};
  const char* names[] = {"x",  "v0", "ts", "cm",         "leak_num",   "leak_den",  "s2",
                         "m2", "w",  "we", "sensory_s2", "sensory_m2", "sensory_w", "sensory_we"};
  const mx::Shape wanted[] = {{B, T, I}, {B, H}, {B, T}, {H}, {H, H}, {I, H}};
  const char* symbols[] = {"[B, T, I]", "[B, H]", "[B, T]", "[H]", "[H, H]", "[I, H]"};
  Arrays inputs;
  for (int i = 0; i < INPUTS; ++i) {
    const int kind = i < 3 ? i : i < 6 ? 3 : i < 10 ? 4 : 5;
    check_dtype(LtcOp::CALL, names[i], all[i]);
    check_shape(LtcOp::CALL, names[i], all[i], wanted[kind], symbols[kind]);
    const bool first_traced = i == 0 && any_traced(all);
    inputs.push_back(ready(exportable_by_hint(all[i], first_traced, s), s));
  }
  if (synapses && (synapses->inputs != I || synapses->units != H))
    throw std::invalid_argument("[ltc_sequence] synapses must be of (inputs, units) = (" +
                                std::to_string(I) + ", " + std::to_string(H) + "), got (" +
                                std::to_string(synapses->inputs) + ", " +
                                std::to_string(synapses->units) + ").");
  LtcOp op{unfolds, ltc_kernel(B, I, H, unfolds, synapses.get())[0] == 'l', B, &kernels(), nullptr};
  if (op.batch_lanes) op.synapses = synapses ? synapses : all_synapses(I, H);
  if (memory) return mixed_states(std::move(op), inputs, *memory, save, x.dtype(), s);
  return sequence_states(std::move(op), inputs, save, x.dtype(), s)[0];
}

LtcProblem ltc_cell(const Arrays& folded, int unfolds, const SynapseLists* synapses) {
  if (folded.size() != INPUTS - 3 || folded[0].ndim() != 1 || folded[7].ndim() != 2)
    throw std::invalid_argument("[ltc_cell] wants the eleven folded arrays of an LTC.");
  const int H = folded[0].shape(0), I = folded[7].shape(0);
  for (int i = 0; i < INPUTS - 3; ++i)
    check_shape("ltc_cell", "a parameter", folded[i],
                i < 3   ? mx::Shape{H}
                : i < 7 ? mx::Shape{H, H}
                        : mx::Shape{I, H},
                "that of its place");
  Arrays in{empty_array({1, 1, I}), empty_array({1, H}), empty_array({1, 1})};
  in.insert(in.end(), folded.begin(), folded.end());
  auto p = LtcOp{unfolds, false, 1, &kernels(), nullptr}.problem(in);
  if (!synapses) return p;
  if (synapses->inputs != I || synapses->units != H)
    throw std::invalid_argument("[ltc_cell] synapses must be of the cell's sizes.");
  static const Synapse none{};  // an empty vector may have no address, and null means no lists
  const auto data = [](const auto& list) { return list.empty() ? &none : list.data(); };
  p.recurrent_list = data(synapses->recurrent), p.sensory_list = data(synapses->sensory);
  p.recurrent_count = long(synapses->recurrent.size());
  p.sensory_count = long(synapses->sensory.size());
  return p;
}

}  // namespace mlx_ncps
