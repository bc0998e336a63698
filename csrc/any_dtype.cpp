// See any_dtype.h.
#include "csrc/any_dtype.h"

#include <algorithm>

#include "csrc/at_once.h"

namespace mlx_ncps {
namespace {

// The values of an array of three sizes at most, and how they lie.
struct Lying {
  const mx::array* holder;
  long sizes[3] = {1, 1, 1}, strides[3] = {0, 0, 0};
  mx::Shape shape;

  Lying(const mx::array& a, bool swapped) : holder(&a), shape(a.shape()) {
    const bool here = a.is_available();
    while (!holder->is_available()) holder = &holder->inputs()[0];  // which is row-contiguous
    const int rank = int(a.ndim());
    long contiguous = 1;
    for (int i = rank - 1; i >= 0; --i) {
      sizes[i] = a.shape(i), strides[i] = here ? long(a.strides()[i]) : contiguous;
      contiguous *= a.shape(i);
    }
    if (!swapped) return;
    std::swap(sizes[0], sizes[1]), std::swap(strides[0], strides[1]);
    std::swap(shape[0], shape[1]);
  }
};

template <typename T, typename F>
void copy(const Lying& from, F as_float, float* to) {
  const T* values = from.holder->data<T>();
  const auto &n = from.sizes, &s = from.strides;
  for (long i = 0; i < n[0]; ++i)
    for (long j = 0; j < n[1]; ++j)
      for (long k = 0; k < n[2]; ++k) *to++ = as_float(values[i * s[0] + j * s[1] + k * s[2]]);
}

template <typename F>
mx::array copied(const mx::array& a, bool swapped, F as_float) {
  const Lying from(a, swapped);
  mx::array to = empty_array("step", from.shape);
  float* out = to.data<float>();
  switch (a.dtype().val()) {
    case mx::Dtype::Val::bool_:
      return copy<bool>(from, as_float, out), to;
    case mx::Dtype::Val::uint8:
      return copy<uint8_t>(from, as_float, out), to;
    case mx::Dtype::Val::uint16:
      return copy<uint16_t>(from, as_float, out), to;
    case mx::Dtype::Val::uint32:
      return copy<uint32_t>(from, as_float, out), to;
    case mx::Dtype::Val::uint64:
      return copy<uint64_t>(from, as_float, out), to;
    case mx::Dtype::Val::int8:
      return copy<int8_t>(from, as_float, out), to;
    case mx::Dtype::Val::int16:
      return copy<int16_t>(from, as_float, out), to;
    case mx::Dtype::Val::int32:
      return copy<int32_t>(from, as_float, out), to;
    case mx::Dtype::Val::int64:
      return copy<int64_t>(from, as_float, out), to;
    case mx::Dtype::Val::float16:
      return copy<mx::float16_t>(from, as_float, out), to;
    case mx::Dtype::Val::bfloat16:
      return copy<mx::bfloat16_t>(from, as_float, out), to;
    case mx::Dtype::Val::float64:
      return copy<double>(from, as_float, out), to;
    case mx::Dtype::Val::float32:
      return copy<float>(from, as_float, out), to;
    case mx::Dtype::Val::complex64:
      break;
  }
  throw std::invalid_argument("[step] an array must be of real numbers, got complex64.");
}

template <typename T>
mx::array converted(const mx::array& a, mx::Dtype dtype) {
  mx::array to = empty_array("step", a.shape(), dtype);
  const float* from = a.data<float>();
  std::transform(from, from + a.size(), to.data<T>(), [](float v) { return static_cast<T>(v); });
  return to;
}

}  // namespace

bool is_float(mx::Dtype dtype) {
  return dtype == mx::float32 || dtype == mx::float16 || dtype == mx::bfloat16;
}
bool is_integer(mx::Dtype dtype) { return mx::issubdtype(dtype, mx::integer); }
mx::Dtype promoted(mx::Dtype a, mx::Dtype b) { return a == b ? a : mx::float32; }

bool has_any_values(const mx::array& a) {
  if (a.is_available()) return true;
  const mx::array* at = &a;
  while (!at->is_available() && only_reshapes(*at)) at = &at->inputs()[0];
  return at->is_available() && at->flags().row_contiguous;
}

bool can_evaluate(const mx::array& a) {
  if (a.status() != mx::array::Status::unscheduled) return true;  // being computed
  if (!a.has_primitive()) return false;
  const mx::Stream& stream = a.primitive().stream();
  return mx::peek_default_stream(stream.device) == stream;
}

mx::array plain(const mx::array& a, mx::Dtype through, bool swapped) {
  if (through == mx::float32)
    return copied(a, swapped, [](auto v) { return static_cast<float>(v); });
  return copied(a, swapped, [&](auto v) { return rounded(static_cast<float>(v), through); });
}

mx::array plain_mask(const mx::array& a, bool swapped) {
  return copied(a, swapped, [](auto v) { return v != static_cast<decltype(v)>(0) ? 1.0f : 0.0f; });
}

mx::array in_dtype(const mx::array& a, mx::Dtype dtype) {
  if (dtype == mx::float16) return converted<mx::float16_t>(a, dtype);
  return dtype == mx::bfloat16 ? converted<mx::bfloat16_t>(a, dtype) : a;
}

float rounded(float value, mx::Dtype dtype) {
  if (dtype == mx::float16) return static_cast<float>(static_cast<mx::float16_t>(value));
  return dtype == mx::bfloat16 ? static_cast<float>(static_cast<mx::bfloat16_t>(value)) : value;
}

mx::array reshaped(const mx::array& a, mx::Shape shape) {
  mx::array to(std::move(shape), a.dtype(), nullptr, {});
  mx::Strides strides(to.ndim());
  int64_t stride = 1;
  for (int i = int(to.ndim()) - 1; i >= 0; --i) strides[i] = stride, stride *= to.shape(i);
  to.copy_shared_buffer(a, strides, a.flags(), a.data_size());
  to.set_status(mx::array::Status::available);
  return to;
}

}  // namespace mlx_ncps
