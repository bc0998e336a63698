// See dropout.h.
#include "csrc/dropout.h"

#include <limits>
#include <stdexcept>

#include "csrc/cpu/kernels.h"
#include "mlx/backend/cpu/encoder.h"

namespace mlx_ncps {
namespace {

constexpr const char* CALL = "dropout_factors";

// Random bits below this count as kept: MLX compares them as float32 with `keep` times the float
// after 2^32.
unsigned long limit_of(float keep) {
  const float limit = keep * 4294967808.0f;
  unsigned long low = 0, high = 1ul << 32;
  while (low < high) {  // the first whose float32 is not below
    const unsigned long middle = (low + high) / 2;
    if (float(unsigned(middle)) < limit)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

class DropoutFactors : public mx::Primitive {
 public:
  DropoutFactors(mx::Stream s, mx::Shape shape, float keep)
      : Primitive(s), shape_(std::move(shape)), keep_(keep) {}

  void eval_cpu(const Arrays& in, Arrays& out) override {
    allocate(CALL, out);
    auto& encoder = mx::cpu::get_command_encoder(stream());
    encoder.set_input_array(in[0]);
    encoder.set_output_array(out[0]);
    const FactorsProblem p{.key = in[0].data<unsigned>(),
                           .n = long(out[0].size()),
                           .limit = limit_of(keep_),
                           .factor = 1.0f / keep_,
                           .out = out[0].data<float>()};
    encoder.dispatch([p] {
      enter_mlx_thread();
      kernels().draw_factors(p);
    });
  }
  void eval_gpu(const Arrays&, Arrays&) override { no_derivative(CALL, "GPU version"); }
  Mapped vmap(const Arrays& inputs, const std::vector<int>& axes) override {
    const auto call = [this](const Arrays& in) { return Arrays{of(mx::contiguous(in[0]))}; };
    return map_by_loop(CALL, call, inputs, axes, stream());
  }
  const char* name() const override { return "DropoutFactors"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& o = static_cast<const DropoutFactors&>(other);
    return shape_ == o.shape_ && keep_ == o.keep_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays&) override { return {shape_}; }

  mx::array of(const mx::array& key) {
    const auto again = std::make_shared<DropoutFactors>(stream(), shape_, keep_);
    return mx::array(shape_, mx::float32, again, {key});
  }

 private:
  mx::Shape shape_;
  float keep_;
};

}  // namespace

mx::array dropout_factors(const mx::array& key, const std::vector<int>& shape, double rate,
                          mx::StreamOrDevice s_) {
  const auto s = mx::to_stream(s_, mx::Device::cpu);
  check_shape(CALL, "key", key, {2}, "[2]");
  if (key.dtype() != mx::uint32)
    throw std::invalid_argument("[dropout_factors] key must be an mx.random.key.");
  if (!(rate >= 0.0 && rate < 1.0))
    throw std::invalid_argument("[dropout_factors] rate must be in [0, 1).");
  const mx::Shape sizes(shape.begin(), shape.end());
  for (const auto n : sizes) size_of(CALL, "a size", n);
  check_bytes(CALL, sizes);
  DropoutFactors draw(s, sizes, float(1.0 - rate));
  return draw.of(mx::contiguous(key, false, s));
}

}  // namespace mlx_ncps
