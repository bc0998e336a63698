// See fold.h. Each sum and product is rounded by itself, in MLX's order, so that the bits are those
// of MLX operations; softplus and its slope are MLX's own functions.
#include "csrc/fold.h"

#include <array>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <utility>

#include "csrc/mapped.h"
#include "mlx/backend/cpu/binary_ops.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/backend/cpu/unary_ops.h"

namespace mlx_ncps {
namespace {

constexpr const char* OP = "fold_ltc";
constexpr float MINUS_LOG2E = -1.4426950408889634;

// Where an input lies; those that may be missing come last, in this order.
enum { GLEAK, VLEAK, CM, W, SIGMA, MU, EREV, SENSORY_W, WEIGHTS = 11 };
// Where an output lies.
enum {
  FOLDED_CM,
  LEAK_NUM,
  LEAK_DEN,
  S2,
  M2,
  FOLDED_W,
  WE,
  SENSORY_S2,
  SENSORY_FOLDED_W = SENSORY_S2 + 2,
  FOLDED = 11
};

float positive(float a, bool implicit) { return implicit ? mx::detail::LogAddExp{}(a, 0.0f) : a; }
float slope(float a) { return mx::detail::Sigmoid{}(a); }

// What a fold is, apart from its arrays.
struct Fold {
  bool implicit;
  float epsilon;
  bool mask, sensory_mask, input_w, input_b;

  bool operator==(const Fold&) const = default;
  int at_mask() const { return WEIGHTS; }
  int at_sensory_mask() const { return WEIGHTS + mask; }
  int at_input_w() const { return at_sensory_mask() + sensory_mask; }
  int at_input_b() const { return at_input_w() + input_w; }
  int inputs() const { return at_input_b() + input_b; }

  void check(const Arrays& in) const {
    if (int(in.size()) < inputs() || in[GLEAK].ndim() != 1 || in[SENSORY_W].ndim() != 2)
      throw std::invalid_argument(
          "[fold_ltc] wants gleak, vleak, cm [H], w, sigma, mu, erev [H, H] and sensory ones "
          "[I, H].");
    const int H = in[GLEAK].shape(0), I = in[SENSORY_W].shape(0);
    const auto one = [&](int at, mx::Shape shape, const char* symbols) {
      check_shape(OP, "a parameter", in[at], shape, symbols);
    };
    for (int i = 0; i < W; ++i) one(i, {H}, "[H]");
    for (int i = W; i < SENSORY_W; ++i) one(i, {H, H}, "[H, H]");
    for (int i = SENSORY_W; i < WEIGHTS; ++i) one(i, {I, H}, "[I, H]");
    if (mask) one(at_mask(), {H, H}, "[H, H]");
    if (sensory_mask) one(at_sensory_mask(), {I, H}, "[I, H]");
    if (input_w) one(at_input_w(), {I}, "[I]");
    if (input_b) one(at_input_b(), {I}, "[I]");
  }
};

// The arrays of one kind of synapses, [sources, H]. What is not there, or not wanted, is null.
struct Synapses {
  long sources, H;
  const float *w, *sigma, *mu, *erev, *mask, *input_w, *input_b;
  float *s2, *m2, *folded_w, *we;
  const float *ds2, *dm2, *dfolded_w, *dwe;
  float *dw, *dsigma, *dmu, *derev, *dmask, *dinput_w, *dinput_b;
};

void fold(const Synapses& p, bool implicit) {
  for (long i = 0, e = 0; i < p.sources; ++i)
    for (long j = 0; j < p.H; ++j, ++e) {
      const float s2 = p.sigma[e] * MINUS_LOG2E, m2 = -s2 * p.mu[e];
      float w = positive(p.w[e], implicit);
      if (p.mask) w = w * std::fabs(p.mask[e]);
      p.s2[e] = p.input_w ? s2 * p.input_w[i] : s2;  // of s2 (x input_w + input_b) + m2
      p.m2[e] = p.input_b ? m2 + s2 * p.input_b[i] : m2;
      p.folded_w[e] = w;
      p.we[e] = w * p.erev[e];
    }
}

void set(float* a, long e, float value) {
  if (a) a[e] = value;
}

// The gradients of the row of source i.
void row_gradient(const Synapses& p, bool implicit, long i) {
  float dinput_w = 0, dinput_b = 0;
  for (long e = i * p.H; e < (i + 1) * p.H; ++e) {
    const float s2 = p.sigma[e] * MINUS_LOG2E;
    float dw = p.dfolded_w[e] + p.dwe[e] * p.erev[e];
    set(p.derev, e, p.dwe[e] * p.folded_w[e]);
    if (p.dmask) p.dmask[e] = dw * positive(p.w[e], implicit) * mx::detail::Sign{}(p.mask[e]);
    if (p.mask) dw = dw * std::fabs(p.mask[e]);
    if (p.dw) p.dw[e] = implicit ? dw * slope(p.w[e]) : dw;
    set(p.dmu, e, p.dm2[e] * -s2);
    float first = p.ds2[e], last = -(p.dm2[e] * p.mu[e]);  // added up in MLX's order
    if (p.input_w) dinput_w += first * s2, first = last, last = p.ds2[e] * p.input_w[i];
    if (p.input_b) dinput_b += p.dm2[e] * s2, first += p.dm2[e] * p.input_b[i];
    set(p.dsigma, e, (first + last) * MINUS_LOG2E);
  }
  set(p.dinput_w, i, dinput_w);
  set(p.dinput_b, i, dinput_b);
}

// The pointers to the arrays of one kind: `first` where its weights lie, `folded` where its folded
// ones do.
Synapses synapses_of(const Fold& f, const Arrays& in, bool sensory) {
  const int first = sensory ? SENSORY_W : W, mask = sensory ? f.at_sensory_mask() : f.at_mask();
  const auto at = [&](int i) { return in[i].data<float>(); };
  Synapses p{};
  p.sources = in[first].shape(0), p.H = in[first].shape(1);
  p.w = at(first), p.sigma = at(first + 1), p.mu = at(first + 2), p.erev = at(first + 3);
  if (sensory ? f.sensory_mask : f.mask) p.mask = at(mask);
  if (sensory && f.input_w) p.input_w = at(f.at_input_w());
  if (sensory && f.input_b) p.input_b = at(f.at_input_b());
  return p;
}

template <typename Run>
void dispatch(mx::Stream stream, const Arrays& inputs, Arrays& outputs, Run run) {
  auto& encoder = mx::cpu::get_command_encoder(stream);
  for (const auto& a : inputs) encoder.set_input_array(a);
  for (auto& a : outputs) encoder.set_output_array(a);
  encoder.dispatch([run = std::move(run)] {
    enter_mlx_thread();
    run();
  });
}

// Inputs: the fold's, its outputs FOLDED_W and the sensory one, a cotangent for each output.
// Outputs: the gradients of the inputs `of`.
class FoldBackward : public mx::Primitive {
 public:
  FoldBackward(mx::Stream s, Fold fold, std::vector<int> of)
      : Primitive(s), fold_(fold), of_(std::move(of)) {}

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    fold_.check(inputs);
    const auto in = row_contiguous(OP, inputs, stream());
    allocate(OP, outputs);
    const int n = fold_.inputs();
    const auto cotangent = [&](int i) { return in[n + 2 + i].data<float>(); };
    const auto gradient = [&](int i) -> float* {
      for (size_t k = 0; k < of_.size(); ++k)
        if (of_[k] == i) return outputs[k].data<float>();
      return nullptr;
    };
    std::array<Synapses, 2> both;
    for (const bool sensory : {false, true}) {
      auto& p = both[sensory] = synapses_of(fold_, in, sensory);
      const int first = sensory ? SENSORY_W : W, folded = sensory ? SENSORY_S2 : S2;
      p.folded_w = const_cast<float*>(in[n + sensory].data<float>());
      p.ds2 = cotangent(folded), p.dm2 = cotangent(folded + 1);
      p.dfolded_w = cotangent(folded + 2), p.dwe = cotangent(folded + 3);
      p.dw = gradient(first), p.dsigma = gradient(first + 1);
      p.dmu = gradient(first + 2), p.derev = gradient(first + 3);
      if (p.mask) p.dmask = gradient(sensory ? fold_.at_sensory_mask() : fold_.at_mask());
      if (p.input_w) p.dinput_w = gradient(fold_.at_input_w());
      if (p.input_b) p.dinput_b = gradient(fold_.at_input_b());
    }
    const auto at = [&](int i) { return in[i].data<float>(); };
    mlx_ncps::dispatch(
        stream(), in, outputs,
        [both, H = in[GLEAK].size(), implicit = fold_.implicit, gleak = at(GLEAK),
         vleak = at(VLEAK), cm = at(CM), dfolded_cm = cotangent(FOLDED_CM),
         dleak_num = cotangent(LEAK_NUM), dleak_den = cotangent(LEAK_DEN), dgleak = gradient(GLEAK),
         dvleak = gradient(VLEAK), dcm = gradient(CM)] {
          const auto through = [&](float a, float da) { return implicit ? da * slope(a) : da; };
          for (size_t j = 0; j < H; ++j) {
            set(dgleak, j, through(gleak[j], dleak_num[j] * vleak[j] + dleak_den[j]));
            set(dvleak, j, dleak_num[j] * positive(gleak[j], implicit));
            set(dcm, j, through(cm[j], dfolded_cm[j]));
          }
          for (const auto& p : both)
            for (long i = 0; i < p.sources; ++i) row_gradient(p, implicit, i);
        });
  }
  void eval_gpu(const Arrays&, Arrays&) override { no_derivative(OP, "GPU version"); }
  Arrays vjp(const Arrays&, const Arrays&, const std::vector<int>&, const Arrays&) override {
    no_derivative(OP, "second derivative");
  }
  Arrays jvp(const Arrays&, const Arrays&, const std::vector<int>&) override {
    no_derivative(OP, "second derivative");
  }
  Mapped vmap(const Arrays& inputs, const std::vector<int>& axes) override {
    return map_in_place(OP, std::make_shared<FoldBackward>(stream(), fold_, of_), inputs, axes);
  }
  const char* name() const override { return "FoldLtcBackward"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& o = static_cast<const FoldBackward&>(other);
    return fold_ == o.fold_ && of_ == o.of_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    std::vector<mx::Shape> shapes;
    for (const int i : of_) shapes.push_back(in[i].shape());
    return shapes;
  }

  static Arrays run(mx::Stream s, const Fold& fold, const std::vector<int>& of,
                    const Arrays& inputs) {
    const auto primitive = std::make_shared<FoldBackward>(s, fold, of);
    return mx::array::make_arrays(primitive->output_shapes(inputs),
                                  std::vector<mx::Dtype>(of.size(), mx::float32), primitive,
                                  inputs);
  }

 private:
  Fold fold_;
  std::vector<int> of_;
};

class FoldLtc : public mx::Primitive {
 public:
  FoldLtc(mx::Stream s, Fold fold) : Primitive(s), fold_(fold) {}

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    fold_.check(inputs);
    const auto in = row_contiguous(OP, inputs, stream());
    allocate(OP, outputs);
    std::array<Synapses, 2> both;
    for (const bool sensory : {false, true}) {
      auto& p = both[sensory] = synapses_of(fold_, in, sensory);
      auto* out = &outputs[sensory ? SENSORY_S2 : S2];
      p.s2 = out[0].data<float>(), p.m2 = out[1].data<float>();
      p.folded_w = out[2].data<float>(), p.we = out[3].data<float>();
    }
    const auto at = [&](int i) { return in[i].data<float>(); };
    const auto to = [&](int i) { return outputs[i].data<float>(); };
    mlx_ncps::dispatch(
        stream(), in, outputs,
        [both, H = in[GLEAK].size(), implicit = fold_.implicit, epsilon = fold_.epsilon,
         gleak = at(GLEAK), vleak = at(VLEAK), cm = at(CM), folded_cm = to(FOLDED_CM),
         leak_num = to(LEAK_NUM), leak_den = to(LEAK_DEN)] {
          for (size_t j = 0; j < H; ++j) {
            const float g = positive(gleak[j], implicit);
            folded_cm[j] = positive(cm[j], implicit);
            leak_num[j] = g * vleak[j];
            leak_den[j] = g + epsilon;
          }
          for (const auto& p : both) fold(p, implicit);
        });
  }
  void eval_gpu(const Arrays&, Arrays&) override { no_derivative(OP, "GPU version"); }
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override {
    auto in = primals;
    in.push_back(outputs[FOLDED_W]);
    in.push_back(outputs[SENSORY_FOLDED_W]);
    for (const auto& a : cotangents) in.push_back(as_float(a, stream()));
    return FoldBackward::run(stream(), fold_, argnums, in);
  }
  Arrays jvp(const Arrays&, const Arrays&, const std::vector<int>&) override {
    no_derivative(OP, "forward-mode derivative (jvp)");
  }
  Mapped vmap(const Arrays& inputs, const std::vector<int>& axes) override {
    return map_in_place(OP, std::make_shared<FoldLtc>(stream(), fold_), inputs, axes);
  }
  const char* name() const override { return "FoldLtc"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    return fold_ == static_cast<const FoldLtc&>(other).fold_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    fold_.check(in);
    const auto vector = in[GLEAK].shape(), square = in[W].shape(), sensory = in[SENSORY_W].shape();
    return {vector, vector,  vector,  square,  square, square,
            square, sensory, sensory, sensory, sensory};
  }

  static Arrays run(mx::Stream s, const Fold& fold, const Arrays& inputs) {
    const auto primitive = std::make_shared<FoldLtc>(s, fold);
    return mx::array::make_arrays(primitive->output_shapes(inputs),
                                  std::vector<mx::Dtype>(FOLDED, mx::float32), primitive, inputs);
  }

 private:
  Fold fold_;
};

}  // namespace

Arrays fold_ltc(const Arrays& weights, const std::optional<mx::array>& mask,
                const std::optional<mx::array>& sensory_mask,
                const std::optional<mx::array>& input_w, const std::optional<mx::array>& input_b,
                bool implicit, float epsilon, mx::StreamOrDevice s_) {
  const auto s = mx::to_stream(s_, mx::Device::cpu);
  const Fold fold{
      implicit,           epsilon, mask.has_value(), sensory_mask.has_value(), input_w.has_value(),
      input_b.has_value()};
  if (weights.size() != WEIGHTS)
    throw std::invalid_argument("[fold_ltc] wants 11 weights, got " +
                                std::to_string(weights.size()) + ".");
  auto inputs = weights;
  for (const auto* a : {&mask, &sensory_mask, &input_w, &input_b})
    if (*a) inputs.push_back(**a);
  for (auto& a : inputs) {
    check_dtype(OP, "a parameter", a);
    a = as_float(a, s);
  }
  return FoldLtc::run(s, fold, inputs);
}

}  // namespace mlx_ncps
