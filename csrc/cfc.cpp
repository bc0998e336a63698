// See cfc.h. Inputs of the primitives, in order: x, h0, ts (only where used), weights; the backward
// adds h, saved, dh, and returns one gradient for each of the former.
#include "csrc/cfc.h"

#include <stdexcept>

#include "csrc/cpu/kernels.h"
#include "metal/activations.h"
#include "metal/cfc.h"
#include "mlx/backend/cpu/encoder.h"

namespace mlx_ncps {
namespace {

constexpr const char* OP = "cfc_sequence";

struct Settings {
  int layers, mode, activation, heads;

  bool timed() const { return heads != 3; }
  int first_weight() const { return timed() ? 3 : 2; }
  int inputs() const {
    return first_weight() + 2 * (layers + heads) + (mode == NCPS_CFC_PURE ? 2 : 0);
  }
  bool operator==(const Settings&) const = default;
};

int saved_width(const Arrays& in, const Settings& settings) {
  int width = settings.heads * in[1].shape(1);
  for (int l = 0; l < settings.layers; ++l) width += in[settings.first_weight() + 2 * l].shape(0);
  return width;
}

CfcProblem problem(const Arrays& in, const Settings& settings) {
  CfcProblem p{};
  p.B = in[0].shape(0), p.T = in[0].shape(1), p.I = in[0].shape(2), p.H = in[1].shape(1);
  p.layers = settings.layers, p.mode = settings.mode, p.activation = settings.activation,
  p.heads = settings.heads;
  p.x = in[0].data<float>(), p.h0 = in[1].data<float>(),
  p.ts = settings.timed() ? in[2].data<float>() : nullptr;
  int at = settings.first_weight();
  for (int l = 0; l < p.layers; ++l, at += 2)
    p.width[l] = in[at].shape(0), p.weight[l] = in[at].data<float>(),
    p.bias[l] = in[at + 1].data<float>();
  for (int i = 0; i < p.heads; ++i, at += 2)
    p.head_weight[i] = in[at].data<float>(), p.head_bias[i] = in[at + 1].data<float>();
  if (p.mode == NCPS_CFC_PURE) p.w_tau = in[at].data<float>(), p.A = in[at + 1].data<float>();
  p.saved_width = saved_width(in, settings);
  return p;
}

mx::Shape states_shape(const Arrays& in) {
  return {in[0].shape(0), in[0].shape(1), in[1].shape(1)};
}
mx::Shape saved_shape(const Arrays& in, const Settings& settings) {
  return {in[0].shape(0), in[0].shape(1), saved_width(in, settings)};
}

template <typename Run>
void dispatch(mx::Stream stream, const Arrays& inputs, Arrays& outputs, Run run) {
  auto& encoder = mx::cpu::get_command_encoder(stream);
  for (const auto& a : inputs) encoder.set_input_array(a);
  for (auto& a : outputs) encoder.set_output_array(a);
  encoder.dispatch(std::move(run));
}

Arrays backward(const Arrays& inputs_states_saved_dh, const Settings& settings, mx::Stream s);

class CfcSequence : public mx::Primitive {
 public:
  CfcSequence(mx::Stream s, Settings settings, bool save)
      : Primitive(s), settings_(settings), save_(save) {}

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    check_contiguous(OP, inputs);
    allocate(outputs);
    auto p = problem(inputs, settings_);
    p.h = outputs[0].data<float>();
    p.saved = save_ ? outputs[1].data<float>() : nullptr;
    dispatch(stream(), inputs, outputs, [p] { kernels().cfc_forward(p); });
  }
  void eval_gpu(const Arrays&, Arrays&) override { no_derivative(OP, "GPU version"); }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override {
    auto in = primals;
    const auto kept = save_ ? outputs : run(primals, true);
    in.insert(in.end(), {kept[0], kept[1], ready(cotangents[0], stream())});
    const auto all = backward(in, settings_, stream());
    Arrays wanted;
    for (int i : argnums) wanted.push_back(all[i]);
    return wanted;
  }
  Arrays jvp(const Arrays&, const Arrays&, const std::vector<int>&) override {
    no_derivative(OP, "forward-mode derivative (jvp)");
  }

  Mapped vmap(const Arrays& inputs, const std::vector<int>& axes) override {
    const auto call = [this](const Arrays& in) {
      Arrays prepared;
      for (const auto& a : in) prepared.push_back(ready(a, stream()));
      return run(prepared, save_);
    };
    if (!only_first_mapped(axes, settings_.first_weight()))
      return map_by_loop(call, inputs, axes, stream());
    return map_by_batch(call, inputs, axes, settings_.first_weight(), {0, 0}, stream());
  }

  Arrays run(const Arrays& inputs, bool save) const {
    const auto s = const_cast<CfcSequence*>(this)->stream();
    std::vector<mx::Shape> shapes{states_shape(inputs)};
    if (save) shapes.push_back(saved_shape(inputs, settings_));
    const std::vector<mx::Dtype> dtypes(shapes.size(), mx::float32);
    return mx::array::make_arrays(shapes, dtypes, std::make_shared<CfcSequence>(s, settings_, save),
                                  inputs);
  }

  const char* name() const override { return "CfcSequence"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& o = static_cast<const CfcSequence&>(other);
    return settings_ == o.settings_ && save_ == o.save_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    std::vector<mx::Shape> shapes{states_shape(in)};
    if (save_) shapes.push_back(saved_shape(in, settings_));
    return shapes;
  }

 private:
  Settings settings_;
  bool save_;
};

class CfcSequenceBackward : public mx::Primitive {
 public:
  CfcSequenceBackward(mx::Stream s, Settings settings) : Primitive(s), settings_(settings) {}

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    check_contiguous("cfc_sequence backward", inputs);
    allocate(outputs);
    auto p = problem(inputs, settings_);
    const auto out = [&](int i) { return outputs[i].data<float>(); };
    const int states = settings_.inputs();
    p.h = const_cast<float*>(inputs[states].data<float>());
    p.saved = const_cast<float*>(inputs[states + 1].data<float>());
    p.dh = inputs[states + 2].data<float>();
    p.dx = out(0), p.dh0 = out(1), p.dts = settings_.timed() ? out(2) : nullptr;
    int at = settings_.first_weight();
    for (int l = 0; l < p.layers; ++l, at += 2) p.dweight[l] = out(at), p.dbias[l] = out(at + 1);
    for (int i = 0; i < p.heads; ++i, at += 2)
      p.dhead_weight[i] = out(at), p.dhead_bias[i] = out(at + 1);
    if (p.mode == NCPS_CFC_PURE) p.dw_tau = out(at), p.dA = out(at + 1);
    dispatch(stream(), inputs, outputs, [p] { kernels().cfc_backward(p); });
  }
  void eval_gpu(const Arrays&, Arrays&) override { no_derivative(OP, "GPU version"); }
  Arrays vjp(const Arrays&, const Arrays&, const std::vector<int>&, const Arrays&) override {
    no_derivative(OP, "second derivative");
  }
  Arrays jvp(const Arrays&, const Arrays&, const std::vector<int>&) override {
    no_derivative(OP, "second derivative");
  }
  // Parameter gradients are sums over the batch, so a mapped axis can't join it.
  Mapped vmap(const Arrays& inputs, const std::vector<int>& axes) override {
    const auto call = [this](const Arrays& in) {
      Arrays prepared;
      for (const auto& a : in) prepared.push_back(ready(a, stream()));
      return backward(prepared, settings_, stream());
    };
    return map_by_loop(call, inputs, axes, stream());
  }
  const char* name() const override { return "CfcSequenceBackward"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    return settings_ == static_cast<const CfcSequenceBackward&>(other).settings_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    std::vector<mx::Shape> shapes;
    for (int i = 0; i < settings_.inputs(); ++i) shapes.push_back(in[i].shape());
    return shapes;
  }

 private:
  Settings settings_;
};

Arrays backward(const Arrays& inputs, const Settings& settings, mx::Stream s) {
  std::vector<mx::Shape> shapes;
  for (int i = 0; i < settings.inputs(); ++i) shapes.push_back(inputs[i].shape());
  const std::vector<mx::Dtype> dtypes(shapes.size(), mx::float32);
  return mx::array::make_arrays(shapes, dtypes, std::make_shared<CfcSequenceBackward>(s, settings),
                                inputs);
}

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

Settings settings_of(const std::string& mode, const std::string& activation, int layers,
                     bool merged) {
  Settings settings{};
  settings.layers = layers;
  settings.mode = index_of("mode", mode, {"default", "no_gate", "pure"});
  settings.activation =
      index_of("activation", activation, {"lecun_tanh", "tanh", "relu", "gelu", "silu", "sigmoid"});
  settings.heads = settings.mode == NCPS_CFC_PURE ? 1 : merged ? 3 : 4;
  if (layers < 0 || layers > MAX_CFC_LAYERS - 1)
    fail("layers must lie in [0, " + std::to_string(MAX_CFC_LAYERS - 1) + "], got " +
         std::to_string(layers) + ".");
  if (settings.mode == NCPS_CFC_PURE && merged) fail("pure mode has no time heads to merge.");
  return settings;
}

}  // namespace

mx::array cfc_sequence(const mx::array& x, const mx::array& h0, const std::optional<mx::array>& ts,
                       const Arrays& weights, int layers, const std::string& mode,
                       const std::string& activation, bool merged, bool save,
                       mx::StreamOrDevice s_) {
  const auto s = mx::to_stream(s_, mx::Device::cpu);
  if (x.ndim() != 3) fail("x must be [B, T, I], got " + std::to_string(x.ndim()) + " dimensions.");
  if (h0.ndim() != 2) fail("h0 must be [B, H], got " + std::to_string(h0.ndim()) + " dimensions.");
  const auto settings = settings_of(mode, activation, layers, merged);
  const int B = x.shape(0), T = x.shape(1), I = x.shape(2), H = h0.shape(1);
  Arrays inputs;
  const auto add = [&](const char* name, const mx::array& a, const mx::Shape& wanted,
                       const char* symbols) {
    check_dtype(OP, name, a);
    check_shape(OP, name, a, wanted, symbols);
    inputs.push_back(ready(a, s));
  };
  add("x", x, {B, T, I}, "[B, T, I]");
  add("h0", h0, {B, H}, "[B, H]");
  if (settings.timed() && !ts) fail("ts [B, T] is needed unless the time heads are merged.");
  if (settings.timed()) add("ts", *ts, {B, T}, "[B, T]");
  const int count = settings.inputs() - settings.first_weight();
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
  for (int i = layers; i < layers + settings.heads; ++i) {
    add("head weight", weights[2 * i], {H, fan_in}, "[H, in]");
    add("head bias", weights[2 * i + 1], {H}, "[H]");
  }
  for (int i = 2 * (layers + settings.heads); i < count; ++i)
    add("w_tau and A", weights[i], {H}, "[H]");
  const auto states = CfcSequence(s, settings, save).run(inputs, save)[0];
  return mx::astype(states, x.dtype(), s);
}

}  // namespace mlx_ncps
