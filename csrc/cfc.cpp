// See cfc.h. Inputs of the primitives: CfcOp::fields; the backward adds h, saved, dh, and returns
// one gradient for each of the former.
#include "csrc/cfc.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "csrc/cpu/kernels.h"
#include "csrc/mixed_memory.h"
#include "csrc/sequence_primitive.h"
#include "metal/activations.h"
#include "metal/cfc.h"

namespace mlx_ncps {
namespace {

[[noreturn]] void fail(const std::string& message) {
  throw std::invalid_argument("[cfc_sequence] " + message);
}

struct CfcOp {
  static constexpr const char *NAME = "CfcSequence", *BACKWARD_NAME = "CfcSequenceBackward",
                              *MIXED_NAME = "CfcMixedSequence",
                              *MIXED_BACKWARD_NAME = "CfcMixedSequenceBackward",
                              *CALL = "cfc_sequence";
  static constexpr int STATES = 1;
  using Problem = CfcProblem;

  int layers, mode, activation, head_activation, heads;
  int first_dropped;  // layer whose output dropout multiplies, and later ones; `layers`: none
  bool resets = false;

  bool operator==(const CfcOp&) const = default;
  bool timed() const { return heads != 3; }
  bool dropped() const { return first_dropped < layers; }
  int first_weight() const { return 2 + timed() + dropped() + 2 * resets; }
  int inputs() const { return count_fields(*this, shaped()); }
  int batched() const { return first_weight(); }
  CfcOp of_mapped(int) const { return *this; }
  void check_count(const Arrays& weights) const {
    const int count = inputs() - first_weight();
    if (int(weights.size()) != count)
      fail("weights must be " + std::to_string(count) + " arrays, got " +
           std::to_string(weights.size()) + ".");
  }

  // Every input: its shape, and where the kernels' problem holds it and its gradient.
  template <typename F>
  void fields(Problem& p, const F& f) const {
    f("x", "[B, T, I]", {p.B, p.T, p.I}, p.x, p.dx);
    f("h0", "[B, H]", {p.B, p.H}, p.h0, p.dh0);
    if (timed()) f("ts", "[B, T]", {p.B, p.T}, p.ts, p.dts);
    if (resets) resets_fields(p.resets, p.B, p.T, p.H, f);
    if (dropped())
      f("dropout", "[B, T, dropped units]", {p.B, p.T, p.dropped_width}, p.dropout, p.ddropout);
    long fan_in = p.I + p.H;
    for (int l = 0; l < p.layers; fan_in = p.width[l], ++l) {
      f("backbone weight", "[units, in]", {p.width[l], fan_in}, p.weight[l], p.dweight[l]);
      f("backbone bias", "[units]", {p.width[l]}, p.bias[l], p.dbias[l]);
    }
    for (int i = 0; i < p.heads; ++i) {
      f("head weight", "[H, in]", {p.H, fan_in}, p.head_weight[i], p.dhead_weight[i]);
      f("head bias", "[H]", {p.H}, p.head_bias[i], p.dhead_bias[i]);
    }
    if (mode == NCPS_CFC_PURE) {
      f("w_tau", "[H]", {p.H}, p.w_tau, p.dw_tau);
      f("A", "[H]", {p.H}, p.A, p.dA);
    }
  }
  Problem shaped() const {  // but for the sizes of arrays
    return {.layers = layers,
            .mode = mode,
            .activation = activation,
            .heads = heads,
            .head_activation = head_activation,
            .first_dropped = first_dropped};
  }
  Problem sized(const Arrays& in) const {
    auto p = shaped();
    set_sizes(p, CALL, "h0", in);
    size_of(CALL, "inputs and units", p.I + p.H);
    for (int l = 0; l < layers; ++l) {
      const auto& weight = in[first_weight() + 2 * l];
      check_rank(CALL, "a backbone weight", weight, 2, "[units, in]");
      p.width[l] = weight.shape(0);
      if (l >= first_dropped) p.dropped_width += p.width[l];
    }
    size_of(CALL, "dropped units", p.dropped_width);
    return p;
  }
  mx::Shape states_shape(const Arrays& in) const { return mlx_ncps::states_shape(in); }
  std::vector<int> saved_batch_axes() const { return {0}; }
  int saved_width(const Arrays& in) const {
    long width = long(heads) * in[1].shape(1);
    for (int l = 0; l < layers; ++l) width += in[first_weight() + 2 * l].shape(0);
    return size_of(CALL, "what is saved for each step", width);
  }
  Shapes saved_shapes(const Arrays& in) const {
    return {{in[0].shape(0), in[0].shape(1), saved_width(in)}};
  }

  Problem problem(const Arrays& in) const {
    auto p = sized(in);
    p.saved_width = saved_width(in);
    read_fields(*this, p, in);
    return p;
  }

  Problem forward_problem(const Arrays& in, Arrays outputs) const {
    auto p = problem(in);
    p.h = outputs[0].data<float>();
    p.saved = outputs.size() > 1 ? outputs[1].data<float>() : nullptr;
    return p;
  }
  void forward(const CfcProblem& p) const { kernels().cfc_forward(p); }

  Problem backward_problem(const Arrays& in, Arrays outputs) const {
    auto p = problem(in);
    p.h = const_cast<float*>(in[inputs()].data<float>());
    p.saved = const_cast<float*>(in[inputs() + 1].data<float>());
    p.dh = in[inputs() + 2].data<float>();
    write_fields(*this, p, outputs);
    return p;
  }
  void backward(const CfcProblem& p) const {
    kernels().cfc_backward(p);
    if (dropped()) std::fill_n(p.ddropout, p.B * p.T * p.dropped_width, 0.0f);
  }
};

// A name and the number that the kernels know it by.
using Choices = std::vector<std::pair<const char*, int>>;

#define NCPS_OF_BACKBONE(NAME, name, from_value, backbone, heads) \
  {backbone ? #name : "", NCPS_##NAME},
#define NCPS_OF_HEADS(NAME, name, from_value, backbone, heads) {heads ? #name : "", NCPS_##NAME},
#define NCPS_OF_MODE(NAME, name) {#name, NCPS_CFC_##NAME},
const Choices ACTIVATIONS{NCPS_ACTIVATIONS(NCPS_OF_BACKBONE)},
    HEAD_ACTIVATIONS{NCPS_ACTIVATIONS(NCPS_OF_HEADS)}, MODES{NCPS_CFC_MODES(NCPS_OF_MODE)};
#undef NCPS_OF_BACKBONE
#undef NCPS_OF_HEADS
#undef NCPS_OF_MODE

int number_of(const char* what, const std::string& name, const Choices& choices) {
  std::string list;
  for (const auto& [valid, number] : choices) {
    if (!*valid) continue;
    if (name == valid) return number;
    list += std::string(list.empty() ? "" : ", ") + valid;
  }
  fail(std::string(what) + " must be one of " + list + ", got '" + name + "'.");
}

CfcOp op_of(const std::string& mode, const std::string& activation,
            const std::string& head_activation, int layers, bool merged, int first_dropped) {
  CfcOp op{.layers = layers,
           .mode = number_of("mode", mode, MODES),
           .activation = number_of("activation", activation, ACTIVATIONS),
           .head_activation = number_of("head_activation", head_activation, HEAD_ACTIVATIONS),
           .heads = 0,
           .first_dropped = first_dropped};
  op.heads = op.mode == NCPS_CFC_PURE ? 1 : merged ? 3 : 4;
  if (layers < 0 || layers > MAX_CFC_LAYERS)
    fail("layers must lie in [0, " + std::to_string(MAX_CFC_LAYERS) + "], got " +
         std::to_string(layers) + ".");
  if (first_dropped < 0 || first_dropped > layers)
    fail("first_dropped must lie in [0, layers] = [0, " + std::to_string(layers) + "], got " +
         std::to_string(first_dropped) + ".");
  if (op.mode == NCPS_CFC_PURE && merged) fail("pure mode has no time heads to merge.");
  return op;
}

}  // namespace

States cfc_sequence(const mx::array& x, const mx::array& h0, const std::optional<mx::array>& ts,
                    const Arrays& weights, int layers, const std::string& mode,
                    const std::string& activation, const std::string& head_activation, bool merged,
                    const std::optional<Arrays>& memory, const std::optional<mx::array>& dropout,
                    int first_dropped, const std::optional<Arrays>& resets, bool save,
                    mx::StreamOrDevice s_) {
  const auto s = mx::to_stream(s_, mx::Device::cpu);
  auto op =
      op_of(mode, activation, head_activation, layers, merged, dropout ? first_dropped : layers);
  op.check_count(weights);
  op.resets = resets.has_value();
  Arrays inputs{x, h0};
  if (op.timed() && !ts) fail("ts [B, T] is needed unless the time heads are merged.");
  if (op.timed()) inputs.push_back(*ts);
  add_resets(CfcOp::CALL, resets, memory.has_value(), inputs);
  if (op.dropped()) inputs.push_back(mx::stop_gradient(*dropout, s));
  inputs.insert(inputs.end(), weights.begin(), weights.end());
  if (memory) return mixed_states(op, inputs, *memory, resets, save, s);
  return sequence_states(op, inputs, save, x.dtype(), s)[0];
}

CfcProblem cfc_cell(const Arrays& weights, int inputs, int layers, const std::string& mode,
                    const std::string& activation, const std::string& head_activation) {
  const auto op = op_of(mode, activation, head_activation, layers, false, layers);
  op.check_count(weights);
  const auto& bias = weights[2 * layers + 1];  // of the first head
  check_rank(CfcOp::CALL, "head bias", bias, 1, "[H]");
  const int H = bias.shape(0);
  if (inputs < 0) fail("inputs must be at least 0, got " + std::to_string(inputs) + ".");
  const char* name = CfcOp::CALL;
  Arrays in{empty_array(name, {1, 1, inputs}), empty_array(name, {1, H}),
            empty_array(name, {1, 1})};
  in.insert(in.end(), weights.begin(), weights.end());
  check_inputs(op, in);
  return op.problem(in);
}

}  // namespace mlx_ncps
