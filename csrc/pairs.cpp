// See pairs.h.
#include "csrc/pairs.h"

#include <memory>
#include <stdexcept>
#include <utility>

#include "csrc/mapped.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/ops.h"

namespace mlx_ncps {
namespace {

struct Pair {
  long size;
  const float *x, *y;
  float* out;
};

// Inputs: x[0], x[1], ..., y[0], y[1], ...; an output for each pair.
class Pairs : public mx::Primitive {
 public:
  Pairs(mx::Stream s, bool product, float factor)
      : Primitive(s), product_(product), factor_(factor) {}

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    const auto in = row_contiguous(name(), inputs, stream());
    allocate(name(), outputs);
    auto& encoder = mx::cpu::get_command_encoder(stream());
    for (const auto& a : in) encoder.set_input_array(a);
    std::vector<Pair> pairs;
    const size_t n = outputs.size();
    for (size_t i = 0; i < n; ++i) {
      encoder.set_output_array(outputs[i]);
      pairs.push_back({long(outputs[i].size()), in[i].data<float>(), in[n + i].data<float>(),
                       outputs[i].data<float>()});
    }
    encoder.dispatch([pairs = std::move(pairs), product = product_, factor = factor_] {
      enter_mlx_thread();
      for (const auto& p : pairs)
        if (product)
          for (long i = 0; i < p.size; ++i) p.out[i] = p.x[i] * p.y[i];
        else
          for (long i = 0; i < p.size; ++i) {
            const float scaled = factor * p.x[i];
            p.out[i] = scaled + p.y[i];
          }
    });
  }
  void eval_gpu(const Arrays&, Arrays&) override { no_derivative(name(), "GPU version"); }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays&) override {
    const int n = int(cotangents.size());
    Arrays gradients, others;
    for (const int i : argnums) {
      gradients.push_back(as_float(cotangents[i % n], stream()));
      others.push_back(primals[(i + n) % (2 * n)]);
    }
    if (product_) return of(gradients, others);
    for (size_t k = 0; k < argnums.size(); ++k)
      if (argnums[k] < n && factor_ != 1.0f)
        gradients[k] = mx::multiply(gradients[k], mx::array(factor_), stream());
    return gradients;
  }
  Arrays jvp(const Arrays&, const Arrays&, const std::vector<int>&) override {
    no_derivative(name(), "forward-mode derivative (jvp)");
  }
  Mapped vmap(const Arrays& inputs, const std::vector<int>& axes) override {
    return map_in_place(name(), std::make_shared<Pairs>(stream(), product_, factor_), inputs, axes);
  }
  const char* name() const override { return product_ ? "Products" : "ScaledSums"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& o = static_cast<const Pairs&>(other);
    return product_ == o.product_ && factor_ == o.factor_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    std::vector<mx::Shape> shapes;
    const size_t n = in.size() / 2;
    for (size_t i = 0; i < n; ++i) {
      check_shape(name(), "y", in[n + i], in[i].shape(), "the shape of x");
      shapes.push_back(in[i].shape());
    }
    return shapes;
  }

  Arrays of(const Arrays& x, const Arrays& y) {
    auto inputs = x;
    inputs.insert(inputs.end(), y.begin(), y.end());
    const auto again = std::make_shared<Pairs>(stream(), product_, factor_);
    const auto shapes = again->output_shapes(inputs);
    const std::vector<mx::Dtype> dtypes(shapes.size(), mx::float32);
    return mx::array::make_arrays(shapes, dtypes, again, inputs);
  }

 private:
  bool product_;
  float factor_;
};

Arrays of_pairs(Pairs pairs, const Arrays& x, const Arrays& y) {
  const std::string op = pairs.name();
  if (x.size() != y.size() || x.empty())
    throw std::invalid_argument("[" + op + "] y must have as many arrays as x, one at least, got " +
                                std::to_string(x.size()) + " and " + std::to_string(y.size()) +
                                ".");
  for (const auto* arrays : {&x, &y})
    for (const auto& a : *arrays)
      if (a.dtype() != mx::float32)
        throw std::invalid_argument("[" + op + "] the arrays must be float32.");
  return pairs.of(x, y);
}

}  // namespace

Arrays products(const Arrays& x, const Arrays& y, mx::StreamOrDevice s) {
  return of_pairs(Pairs(mx::to_stream(s, mx::Device::cpu), true, 1.0f), x, y);
}

Arrays scaled_sums(const Arrays& x, const Arrays& y, float factor, mx::StreamOrDevice s) {
  return of_pairs(Pairs(mx::to_stream(s, mx::Device::cpu), false, factor), x, y);
}

}  // namespace mlx_ncps
