// See primitive.h.
#include "csrc/primitive.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <sstream>
#include <stdexcept>

#include "mlx/allocator.h"

namespace mlx_ncps {
namespace {
std::atomic<bool> poison{false};
}

mx::array ready(const mx::array& a, mx::Stream s) {
  const auto f = mx::astype(a, mx::float32, s);
  // A node less in the graph of a call on plain arrays; a tracer's strides are not known yet.
  if (!f.is_tracer() && f.status() == mx::array::Status::available && f.flags().row_contiguous)
    return f;
  return mx::contiguous(f, false, s);
}

namespace {

// MLX cuts a name at its first space, so these are no-break spaces.
#define NBSP "\u00a0"
constexpr const char* HINT =
    "of" NBSP "mlx_ncps's" NBSP "fused" NBSP "kernels:" NBSP "call" NBSP
    "mlx_ncps.export_function" NBSP "in" NBSP "place" NBSP "of" NBSP "mx.export_function," NBSP
    "with" NBSP "the" NBSP "same" NBSP "arguments.";
#undef NBSP

class ExportHint : public mx::Primitive {
 public:
  using Primitive::Primitive;
  void eval_cpu(const Arrays& in, Arrays& out) override { out[0].copy_shared_buffer(in[0]); }
  void eval_gpu(const Arrays& in, Arrays& out) override { out[0].copy_shared_buffer(in[0]); }
  Arrays vjp(const Arrays&, const Arrays& cotangents, const std::vector<int>&,
             const Arrays&) override {
    return cotangents;
  }
  Arrays jvp(const Arrays&, const Arrays& tangents, const std::vector<int>&) override {
    return tangents;
  }
  std::pair<Arrays, std::vector<int>> vmap(const Arrays& in,
                                           const std::vector<int>& axes) override {
    return {{exportable_by_hint(in[0], true, stream())}, axes};
  }
  const char* name() const override { return HINT; }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {in[0].shape()}; }
};

}  // namespace

mx::array exportable_by_hint(const mx::array& a, bool traced, mx::Stream s) {
  if (!traced) return a;
  return mx::array(a.shape(), a.dtype(), std::make_shared<ExportHint>(s), {a});
}

bool any_traced(const Arrays& arrays) {
  return std::any_of(arrays.begin(), arrays.end(), [](const auto& a) { return a.is_tracer(); });
}

void check_shape(const char* op, const char* name, const mx::array& a, const mx::Shape& wanted,
                 const char* symbols) {
  if (a.shape() == wanted) return;
  std::ostringstream message;
  message << "[" << op << "] " << name << " must be " << symbols << " = " << wanted << ", got "
          << a.shape() << ".";
  throw std::invalid_argument(message.str());
}

void check_dtype(const char* op, const char* name, const mx::array& a) {
  if (a.dtype() == mx::float32 || a.dtype() == mx::float16 || a.dtype() == mx::bfloat16) return;
  std::ostringstream message;
  message << "[" << op << "] " << name << " must be float32, float16 or bfloat16, got " << a.dtype()
          << ".";
  throw std::invalid_argument(message.str());
}

void allocate(Arrays& outputs) {
  for (auto& out : outputs) {
    out.set_data(mx::allocator::malloc(out.nbytes()));
    if (poison && out.nbytes() > 0) std::memset(out.data<void>(), 0xff, out.nbytes());
  }
}

void poison_outputs(bool on) { poison = on; }

mx::array empty_array(mx::Shape shape) {
  Arrays made{mx::array(std::move(shape), mx::float32, nullptr, {})};
  allocate(made);
  made[0].set_status(mx::array::Status::available);
  return made[0];
}

void check_contiguous(const char* op, const Arrays& inputs) {
  for (const auto& a : inputs)
    if (!a.flags().row_contiguous)
      throw std::runtime_error("[" + std::string(op) + "] an input is not row-contiguous.");
}

void no_derivative(const char* op, const char* what) {
  throw std::runtime_error("[" + std::string(op) + "] the fused CPU kernel has no " + what +
                           "; use the pure-MLX ops for it: mlx_ncps.use_backend(\"reference\").");
}

bool only_first_mapped(const std::vector<int>& axes, int count) {
  for (int i = count; i < int(axes.size()); ++i)
    if (axes[i] >= 0) return false;
  return true;
}

static int mapped_size(const Arrays& inputs, const std::vector<int>& axes) {
  for (size_t i = 0; i < inputs.size(); ++i)
    if (axes[i] >= 0) return inputs[i].shape(axes[i]);
  return 1;
}

// Element v of the mapped axis; of an empty axis a stand-in of the right shape.
static Arrays element(const Arrays& inputs, const std::vector<int>& axes, int v, bool empty,
                      mx::Stream s) {
  Arrays one;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (axes[i] < 0) {
      one.push_back(inputs[i]);
      continue;
    }
    if (!empty) {
      one.push_back(mx::take(inputs[i], v, axes[i], s));
      continue;
    }
    auto shape = inputs[i].shape();
    shape.erase(shape.begin() + axes[i]);
    one.push_back(mx::zeros(shape, inputs[i].dtype(), s));
  }
  return one;
}

Mapped map_by_loop(const Call& call, const Arrays& inputs, const std::vector<int>& axes,
                   mx::Stream s) {
  const int size = mapped_size(inputs, axes);
  std::vector<Arrays> columns;
  for (int v = 0; v < (size > 0 ? size : 1); ++v) {
    const auto results = call(element(inputs, axes, v, size == 0, s));
    columns.resize(results.size());
    for (size_t i = 0; i < results.size(); ++i) columns[i].push_back(results[i]);
  }
  Arrays stacked;
  for (auto& column : columns) {
    auto all = mx::stack(column, 0, s);
    auto shape = all.shape();
    shape[0] = size;
    stacked.push_back(size > 0 ? all : mx::zeros(shape, all.dtype(), s));
  }
  return {stacked, std::vector<int>(stacked.size(), 0)};
}

Mapped map_by_batch(const Call& call, Arrays inputs, std::vector<int> axes, int count,
                    const std::vector<int>& batch_axis, mx::Stream s) {
  const int size = mapped_size(inputs, axes);
  int batch = 0;
  for (int i = 0; i < count; ++i) {
    auto a =
        axes[i] >= 0 ? mx::moveaxis(inputs[i], axes[i], 0, s) : mx::expand_dims(inputs[i], 0, s);
    auto shape = a.shape();
    shape[0] = size;
    batch = shape[1];
    auto folded = mx::Shape(shape.begin() + 1, shape.end());
    folded[0] = size * batch;
    inputs[i] = mx::reshape(mx::broadcast_to(a, shape, s), folded, s);
  }
  const auto results = call(inputs);
  Mapped out;
  for (size_t i = 0; i < results.size(); ++i) {
    auto shape = results[i].shape();
    const int axis = batch_axis[i];
    shape[axis] = batch;
    shape.insert(shape.begin() + axis, size);
    out.first.push_back(mx::reshape(results[i], shape, s));
    out.second.push_back(axis);
  }
  return out;
}

}  // namespace mlx_ncps
