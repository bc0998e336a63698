// See cfc.h. Inputs of the primitives, in order: x, h0, ts (only where used), weights; the backward
// adds h, saved, dh, and returns one gradient for each of the former.
#include "csrc/cfc.h"

#include <array>
#include <stdexcept>

#include "csrc/cpu/kernels.h"
#include "csrc/mixed_memory.h"
#include "csrc/sequence_primitive.h"
#include "metal/activations.h"
#include "metal/cfc.h"

namespace mlx_ncps {
namespace {

struct CfcOp {
  static constexpr const char *NAME = "CfcSequence", *BACKWARD_NAME = "CfcSequenceBackward",
                              *MIXED_NAME = "CfcMixedSequence",
                              *MIXED_BACKWARD_NAME = "CfcMixedSequenceBackward",
                              *CALL = "cfc_sequence";
  static constexpr int STATES = 1;

  int layers, mode, activation, head_activation, heads;

  bool operator==(const CfcOp&) const = default;
  bool timed() const { return heads != 3; }
  int first_weight() const { return timed() ? 3 : 2; }
  int inputs() const {
    return first_weight() + 2 * (layers + heads) + (mode == NCPS_CFC_PURE ? 2 : 0);
  }
  int batched() const { return first_weight(); }
  mx::Shape states_shape(const Arrays& in) const { return mlx_ncps::states_shape(in); }
  std::vector<int> saved_batch_axes() const { return {0}; }
  int saved_width(const Arrays& in) const {
    int width = heads * in[1].shape(1);
    for (int l = 0; l < layers; ++l) width += in[first_weight() + 2 * l].shape(0);
    return width;
  }
  std::vector<mx::Shape> saved_shapes(const Arrays& in) const {
    return {{in[0].shape(0), in[0].shape(1), saved_width(in)}};
  }

  CfcProblem problem(const Arrays& in) const {
    CfcProblem p{};
    p.B = in[0].shape(0), p.T = in[0].shape(1), p.I = in[0].shape(2), p.H = in[1].shape(1);
    p.layers = layers, p.mode = mode, p.activation = activation, p.heads = heads;
    p.head_activation = head_activation;
    p.x = in[0].data<float>(), p.h0 = in[1].data<float>(),
    p.ts = timed() ? in[2].data<float>() : nullptr;
    int at = first_weight();
    for (int l = 0; l < layers; ++l, at += 2)
      p.width[l] = in[at].shape(0), p.weight[l] = in[at].data<float>(),
      p.bias[l] = in[at + 1].data<float>();
    for (int i = 0; i < heads; ++i, at += 2)
      p.head_weight[i] = in[at].data<float>(), p.head_bias[i] = in[at + 1].data<float>();
    if (mode == NCPS_CFC_PURE) p.w_tau = in[at].data<float>(), p.A = in[at + 1].data<float>();
    p.saved_width = saved_width(in);
    return p;
  }

  CfcProblem forward_problem(const Arrays& in, Arrays outputs) const {
    auto p = problem(in);
    p.h = outputs[0].data<float>();
    p.saved = outputs.size() > 1 ? outputs[1].data<float>() : nullptr;
    return p;
  }
  void forward(const CfcProblem& p) const { kernels().cfc_forward(p); }

  CfcProblem backward_problem(const Arrays& in, Arrays outputs) const {
    auto p = problem(in);
    const auto out = [&](int i) { return outputs[i].data<float>(); };
    p.h = const_cast<float*>(in[inputs()].data<float>());
    p.saved = const_cast<float*>(in[inputs() + 1].data<float>());
    p.dh = in[inputs() + 2].data<float>();
    p.dx = out(0), p.dh0 = out(1), p.dts = timed() ? out(2) : nullptr;
    int at = first_weight();
    for (int l = 0; l < layers; ++l, at += 2) p.dweight[l] = out(at), p.dbias[l] = out(at + 1);
    for (int i = 0; i < heads; ++i, at += 2)
      p.dhead_weight[i] = out(at), p.dhead_bias[i] = out(at + 1);
    if (mode == NCPS_CFC_PURE) p.dw_tau = out(at), p.dA = out(at + 1);
    return p;
  }
  void backward(const CfcProblem& p) const { kernels().cfc_backward(p); }
};

int index_of(const char* what, const std::string& name, const std::vector<const char*>& valid) {
  std::string list;
  for (size_t i = 0; i < valid.size(); ++i) {
    if (name == valid[i]) return int(i);
    list += std::string(i ? ", " : "") + valid[i];
  }
  throw std::invalid_argument(std::string("[cfc_sequence] ") + what + " must be one of " + list +
                              ", got '" + name + "'.");
}

[[noreturn]] void fail(const std::string& message) {
  throw std::invalid_argument("[cfc_sequence] " + message);
}

CfcOp op_of(const std::string& mode, const std::string& activation,
            const std::string& head_activation, int layers, bool merged) {
  CfcOp op{};
  op.layers = layers;
  op.mode = index_of("mode", mode, {"default", "no_gate", "pure"});
  op.activation =
      index_of("activation", activation, {"lecun_tanh", "tanh", "relu", "gelu", "silu", "sigmoid"});
  op.head_activation = std::array{NCPS_TANH, NCPS_LECUN_TANH, NCPS_IDENTITY}[index_of(
      "head_activation", head_activation, {"tanh", "lecun_tanh", "identity"})];
  op.heads = op.mode == NCPS_CFC_PURE ? 1 : merged ? 3 : 4;
  if (layers < 0 || layers > MAX_CFC_LAYERS - 1)
    fail("layers must lie in [0, " + std::to_string(MAX_CFC_LAYERS - 1) + "], got " +
         std::to_string(layers) + ".");
  if (op.mode == NCPS_CFC_PURE && merged) fail("pure mode has no time heads to merge.");
  return op;
}

}  // namespace

States cfc_sequence(const mx::array& x, const mx::array& h0, const std::optional<mx::array>& ts,
                    const Arrays& weights, int layers, const std::string& mode,
                    const std::string& activation, const std::string& head_activation, bool merged,
                    const std::optional<Arrays>& memory, bool save, mx::StreamOrDevice s_) {
  const auto s = mx::to_stream(s_, mx::Device::cpu);
  if (x.ndim() != 3) fail("x must be [B, T, I], got " + std::to_string(x.ndim()) + " dimensions.");
  if (h0.ndim() != 2) fail("h0 must be [B, H], got " + std::to_string(h0.ndim()) + " dimensions.");
  const auto op = op_of(mode, activation, head_activation, layers, merged);
  const int B = x.shape(0), T = x.shape(1), I = x.shape(2), H = h0.shape(1);
  Arrays inputs;
  const auto add = [&](const char* name, const mx::array& a, const mx::Shape& wanted,
                       const char* symbols) {
    check_dtype(CfcOp::CALL, name, a);
    check_shape(CfcOp::CALL, name, a, wanted, symbols);
    inputs.push_back(ready(a, s));
  };
  const bool traced =
      x.is_tracer() || h0.is_tracer() || any_traced(weights) || (ts && ts->is_tracer());
  add("x", exportable_by_hint(x, traced, s), {B, T, I}, "[B, T, I]");
  add("h0", h0, {B, H}, "[B, H]");
  if (op.timed() && !ts) fail("ts [B, T] is needed unless the time heads are merged.");
  if (op.timed()) add("ts", *ts, {B, T}, "[B, T]");
  const int count = op.inputs() - op.first_weight();
  if (int(weights.size()) != count)
    fail("weights must be " + std::to_string(count) + " arrays, got " +
         std::to_string(weights.size()) + ".");
  int fan_in = I + H;
  for (int l = 0; l < layers; ++l) {
    const auto& W = weights[2 * l];
    if (W.ndim() != 2)
      fail("a backbone weight must be [units, in], got " + std::to_string(W.ndim()) +
           " dimensions.");
    const int K = W.shape(0);
    add("backbone weight", W, {K, fan_in}, "[units, in]");
    add("backbone bias", weights[2 * l + 1], {K}, "[units]");
    fan_in = K;
  }
  for (int i = layers; i < layers + op.heads; ++i) {
    add("head weight", weights[2 * i], {H, fan_in}, "[H, in]");
    add("head bias", weights[2 * i + 1], {H}, "[H]");
  }
  for (int i = 2 * (layers + op.heads); i < count; ++i) add("w_tau and A", weights[i], {H}, "[H]");
  if (memory) return mixed_states(op, inputs, *memory, save, x.dtype(), s);
  return sequence_states(op, inputs, save, x.dtype(), s)[0];
}

CfcProblem cfc_cell(const Arrays& weights, int inputs, int layers, const std::string& mode,
                    const std::string& activation, const std::string& head_activation) {
  const auto op = op_of(mode, activation, head_activation, layers, false);
  if (int(weights.size()) != op.inputs() - op.first_weight())
    fail("weights must be " + std::to_string(op.inputs() - op.first_weight()) + " arrays, got " +
         std::to_string(weights.size()) + ".");
  const int H = weights[2 * layers + 1].size();
  Arrays in{empty_array({1, 1, inputs}), empty_array({1, H}), empty_array({1, 1})};
  in.insert(in.end(), weights.begin(), weights.end());
  return op.problem(in);
}

}  // namespace mlx_ncps
