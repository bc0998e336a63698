// See primitive.h.
#include "csrc/primitive.h"

#include <algorithm>
#include <atomic>
#include <climits>
#include <cstring>
#include <memory>
#include <sstream>
#include <stdexcept>

#include "mlx/allocator.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/ops.h"

namespace mlx_ncps {
namespace {
std::atomic<bool> poison{false};
thread_local bool mlx_thread = false;

// Of a Buffer, as MLX gives it until 0.32.3, or of its owner.
template <typename Memory>
const void* address(const Memory& memory) {
  if constexpr (requires { memory.ptr(); })
    return memory.ptr();
  else
    return memory.buffer().ptr();
}
}  // namespace

mx::array as_float(const mx::array& a, mx::Stream s) { return mx::astype(a, mx::float32, s); }

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

int size_of(const char* op, const char* name, long count) {
  if (count >= 0 && count <= INT_MAX) return int(count);
  throw std::invalid_argument("[" + std::string(op) + "] " + name + " must be at most " +
                              std::to_string(INT_MAX) + ", got " + std::to_string(size_t(count)) +
                              ".");
}

void check_bytes(const char* op, const mx::Shape& shape) {
  long bytes = sizeof(float);
  bool fits = true;
  double wanted = sizeof(float);
  for (const auto n : shape) {
    if (n == 0) return;
    fits = fits && !__builtin_mul_overflow(bytes, long(n), &bytes);
    wanted *= n;
  }
  if (fits) return;
  std::ostringstream message;
  message << "[" << op << "] an array " << shape << " of float32 must have less than 2^63 bytes, "
          << "got " << wanted
          << ": run the sequence in chunks of steps, with fewer rows or fewer unfolds.";
  throw std::invalid_argument(message.str());
}

long saturated_product(long a, long b) {
  long product;
  return __builtin_mul_overflow(a, b, &product) ? LONG_MAX : product;
}

void allocate(const char* op, Arrays& outputs) {
  for (auto& out : outputs) {
    if (out.data_shared_ptr()) continue;
    auto memory = mx::allocator::malloc(out.nbytes());
    if (!address(memory)) {
      new auto(std::move(memory));  // never freed: MLX's destructor would read through null
      std::ostringstream message;
      message << "[" << op << "] no memory for an array " << out.shape() << " of " << out.nbytes()
              << " bytes: run the sequence in chunks of steps, with fewer rows or fewer unfolds.";
      throw std::runtime_error(message.str());
    }
    out.set_data(std::move(memory));
    if (poison && out.nbytes() > 0) std::memset(out.data<void>(), 0xff, out.nbytes());
  }
}

void poison_outputs(bool on) { poison = on; }

void enter_mlx_thread() { mlx_thread = true; }
bool on_mlx_thread() { return mlx_thread; }

mx::array empty_array(const char* op, mx::Shape shape, mx::Dtype dtype) {
  check_bytes(op, shape);
  Arrays made{mx::array(std::move(shape), dtype, nullptr, {})};
  allocate(op, made);
  made[0].set_status(mx::array::Status::available);
  return made[0];
}

namespace {
// to: the elements from `from` on, by strides, in the order of rows; returns what comes after them.
float* copy_by_strides(const float* from, const mx::array& like, int axis, float* to) {
  if (axis == int(like.ndim())) {
    *to = *from;
    return to + 1;
  }
  const auto stride = like.strides(axis);
  const int count = like.shape(axis);
  if (axis + 1 < int(like.ndim())) {
    for (int i = 0; i < count; ++i) to = copy_by_strides(from + i * stride, like, axis + 1, to);
    return to;
  }
  if (stride == 1) return std::copy_n(from, count, to);
  for (int i = 0; i < count; ++i) to[i] = from[i * stride];
  return to + count;
}
}  // namespace

Arrays row_contiguous(const char* op, const Arrays& inputs, mx::Stream s) {
  Arrays rows;
  for (const auto& a : inputs) {
    if (a.dtype() != mx::float32)
      throw std::runtime_error("[" + std::string(op) + "] an input is not float32.");
    rows.push_back(a);
    if (a.flags().row_contiguous) continue;
    Arrays copy{mx::array(a.shape(), a.dtype(), nullptr, {})};
    allocate(op, copy);
    auto& encoder = mx::cpu::get_command_encoder(s);
    encoder.dispatch([from = mx::array::unsafe_weak_copy(a), to = copy[0].data<float>()] {
      enter_mlx_thread();
      if (from.size() > 0) copy_by_strides(from.data<float>(), from, 0, to);
    });
    encoder.add_temporary(copy[0]);
    rows.back() = copy[0];
  }
  return rows;
}

// MLX does not export its own flag, but what it answers to: a tracer is one within a trace only,
// and broadcasting keeps equal shapes apart only where they may differ later.
bool in_shapeless_trace() {
  static thread_local mx::array probe = [] {
    mx::array a(0.0f);
    a.set_tracer(true);
    return a;
  }();
  return probe.is_tracer() && mx::broadcast_arrays({probe, probe})[0].has_primitive();
}

void refuse_shapeless(const char* op, const char* what) {
  if (in_shapeless_trace())
    throw std::invalid_argument("[" + std::string(op) + "] " + what +
                                " keeps the sizes of the first call: use mx.compile without "
                                "shapeless=True, which traces anew for every shape.");
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

int mapped_size(const Arrays& inputs, const std::vector<int>& axes) {
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

Mapped map_by_loop(const char* op, const Call& call, const Arrays& inputs,
                   const std::vector<int>& axes, mx::Stream s) {
  refuse_shapeless(op, "mx.vmap");
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

Mapped map_by_batch(const char* op, const Call& call, Arrays inputs, std::vector<int> axes,
                    int count, const std::vector<int>& batch_axis, mx::Stream s) {
  refuse_shapeless(op, "mx.vmap");
  const int size = mapped_size(inputs, axes);
  int batch = 0;
  for (int i = 0; i < count; ++i) {
    auto a =
        axes[i] >= 0 ? mx::moveaxis(inputs[i], axes[i], 0, s) : mx::expand_dims(inputs[i], 0, s);
    auto shape = a.shape();
    shape[0] = size;
    batch = shape[1];
    auto folded = mx::Shape(shape.begin() + 1, shape.end());
    folded[0] = size_of(op, "mapped axis times batch", long(size) * batch);
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
