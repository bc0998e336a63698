// See ltc.h. Inputs of the primitives, in order: x, v0, ts, cm, leak_num, leak_den, s2, m2, w, we,
// sensory_s2, sensory_m2, sensory_w, sensory_we; the backward adds v, saved, dv, and returns one
// gradient for each of the fourteen.
#include "csrc/ltc.h"

#include <algorithm>
#include <stdexcept>

#include "mlx/backend/cpu/encoder.h"

namespace mlx_ncps {
namespace {

constexpr const char* OP = "ltc_sequence";
constexpr int INPUTS = 14, BATCHED = 3;

struct Settings {
  int unfolds;
  bool batch_lanes;  // the kernel with synapse lists, and its layout of `saved`
  std::shared_ptr<const SynapseLists> synapses;  // set where batch_lanes

  bool operator==(const Settings&) const = default;
};

SynapseMatrices matrices(const Arrays& in, int first) {
  return {in[first].data<float>(), in[first + 1].data<float>(), in[first + 2].data<float>(),
          in[first + 3].data<float>()};
}

LtcProblem problem(const Arrays& in, const Settings& settings) {
  LtcProblem p{};
  p.B = in[0].shape(0), p.T = in[0].shape(1), p.I = in[0].shape(2), p.H = in[1].shape(1),
  p.U = settings.unfolds;
  p.x = in[0].data<float>(), p.v0 = in[1].data<float>(), p.ts = in[2].data<float>();
  p.cm = in[3].data<float>(), p.leak_num = in[4].data<float>(), p.leak_den = in[5].data<float>();
  p.recurrent = matrices(in, 6), p.sensory = matrices(in, 10);
  if (settings.batch_lanes) {
    p.recurrent_list = settings.synapses->recurrent.data(),
    p.recurrent_count = long(settings.synapses->recurrent.size());
    p.sensory_list = settings.synapses->sensory.data(),
    p.sensory_count = long(settings.synapses->sensory.size());
  }
  return p;
}

mx::Shape saved_shape(const Arrays& in, const Settings& settings) {
  const int B = in[0].shape(0), T = in[0].shape(1), H = in[1].shape(1), U = settings.unfolds;
  return settings.batch_lanes ? mx::Shape{T, U, 2, H, B} : mx::Shape{B, T, U, 2, H};
}

mx::Shape states_shape(const Arrays& in) {
  return {in[0].shape(0), in[0].shape(1), in[1].shape(1)};
}

template <typename Run>
void dispatch(mx::Stream stream, const Arrays& inputs, Arrays& outputs, Run run) {
  auto& encoder = mx::cpu::get_command_encoder(stream);
  for (const auto& a : inputs) encoder.set_input_array(a);
  for (auto& a : outputs) encoder.set_output_array(a);
  encoder.dispatch(std::move(run));
}

Arrays backward(const Arrays& inputs_states_saved_dv, const Settings& settings, mx::Stream s);

class LtcSequence : public mx::Primitive {
 public:
  LtcSequence(mx::Stream s, Settings settings, bool save)
      : Primitive(s), settings_(std::move(settings)), save_(save) {}

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    check_contiguous(OP, inputs);
    allocate(outputs);
    auto p = problem(inputs, settings_);
    p.v = outputs[0].data<float>();
    p.saved = save_ ? outputs[1].data<float>() : nullptr;
    dispatch(stream(), inputs, outputs,
             [p, keep = settings_] { kernels().ltc_forward(p, keep.batch_lanes); });
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
    if (!only_first_mapped(axes, BATCHED)) return map_by_loop(call, inputs, axes, stream());
    return map_by_batch(call, inputs, axes, BATCHED, {0, settings_.batch_lanes ? 4 : 0}, stream());
  }

  Arrays run(const Arrays& inputs, bool save) const {
    const auto s = const_cast<LtcSequence*>(this)->stream();
    std::vector<mx::Shape> shapes{states_shape(inputs)};
    if (save) shapes.push_back(saved_shape(inputs, settings_));
    const std::vector<mx::Dtype> dtypes(shapes.size(), mx::float32);
    return mx::array::make_arrays(shapes, dtypes, std::make_shared<LtcSequence>(s, settings_, save),
                                  inputs);
  }

  const char* name() const override { return "LtcSequence"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& o = static_cast<const LtcSequence&>(other);
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

class LtcSequenceBackward : public mx::Primitive {
 public:
  LtcSequenceBackward(mx::Stream s, Settings settings)
      : Primitive(s), settings_(std::move(settings)) {}

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    check_contiguous("ltc_sequence backward", inputs);
    allocate(outputs);
    auto p = problem(inputs, settings_);
    const auto out = [&](int i) { return outputs[i].data<float>(); };
    p.v = const_cast<float*>(inputs[INPUTS].data<float>());
    p.saved = const_cast<float*>(inputs[INPUTS + 1].data<float>());
    p.dv = inputs[INPUTS + 2].data<float>();
    p.dx = out(0), p.dv0 = out(1), p.dts = out(2), p.dcm = out(3), p.dleak_num = out(4),
    p.dleak_den = out(5);
    p.drecurrent = {out(6), out(7), out(8), out(9)};
    p.dsensory = {out(10), out(11), out(12), out(13)};
    dispatch(stream(), inputs, outputs,
             [p, keep = settings_] { kernels().ltc_backward(p, keep.batch_lanes); });
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
  const char* name() const override { return "LtcSequenceBackward"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    return settings_ == static_cast<const LtcSequenceBackward&>(other).settings_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    std::vector<mx::Shape> shapes;
    for (int i = 0; i < INPUTS; ++i) shapes.push_back(in[i].shape());
    return shapes;
  }

 private:
  Settings settings_;
};

Arrays backward(const Arrays& inputs, const Settings& settings, mx::Stream s) {
  std::vector<mx::Shape> shapes;
  for (int i = 0; i < INPUTS; ++i) shapes.push_back(inputs[i].shape());
  const std::vector<mx::Dtype> dtypes(INPUTS, mx::float32);
  return mx::array::make_arrays(shapes, dtypes, std::make_shared<LtcSequenceBackward>(s, settings),
                                inputs);
}

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

// Gates evaluated, in whole vectors: lanes across neurons waste the tail of H and the absent
// synapses, lanes across rows the tail of B.
bool prefers_lists(long B, long I, long H, long U, long recurrent, long sensory) {
  const long lanes = kernels().lanes;
  const long dense = B * ((H + lanes - 1) / lanes) * (U * H + I);
  const long listed = (B + lanes - 1) / lanes * (U * recurrent + sensory);
  return listed < dense;
}

}  // namespace

SynapseLists::SynapseLists(std::vector<int> source, std::vector<int> target,
                           std::vector<int> sensory_source, std::vector<int> sensory_target,
                           int inputs_, int units_)
    : inputs(inputs_),
      units(units_),
      recurrent(sorted(source, target, units_, units_, "recurrent")),
      sensory(sorted(sensory_source, sensory_target, inputs_, units_, "sensory")) {}

const char* ltc_kernel(int B, int I, int H, int unfolds, const SynapseLists* synapses) {
  const long recurrent = synapses ? long(synapses->recurrent.size()) : long(H) * H;
  const long sensory = synapses ? long(synapses->sensory.size()) : long(I) * H;
  return prefers_lists(B, I, H, unfolds, recurrent, sensory) ? "lists" : "dense";
}

mx::array ltc_sequence(const mx::array& x, const mx::array& v0, const mx::array& ts,
                       const mx::array& cm, const mx::array& leak_num, const mx::array& leak_den,
                       const mx::array& s2, const mx::array& m2, const mx::array& w,
                       const mx::array& we, const mx::array& sensory_s2,
                       const mx::array& sensory_m2, const mx::array& sensory_w,
                       const mx::array& sensory_we, int unfolds,
                       std::shared_ptr<const SynapseLists> synapses, bool save,
                       mx::StreamOrDevice s_) {
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
    check_dtype(OP, names[i], all[i]);
    check_shape(OP, names[i], all[i], wanted[kind], symbols[kind]);
    inputs.push_back(ready(all[i], s));
  }
  if (synapses && (synapses->inputs != I || synapses->units != H))
    throw std::invalid_argument("[ltc_sequence] synapses must be of (inputs, units) = (" +
                                std::to_string(I) + ", " + std::to_string(H) + "), got (" +
                                std::to_string(synapses->inputs) + ", " +
                                std::to_string(synapses->units) + ").");
  Settings settings{unfolds, ltc_kernel(B, I, H, unfolds, synapses.get())[0] == 'l', nullptr};
  if (settings.batch_lanes) settings.synapses = synapses ? synapses : all_synapses(I, H);
  const auto states = LtcSequence(s, settings, save).run(inputs, save)[0];
  return mx::astype(states, x.dtype(), s);
}

}  // namespace mlx_ncps
