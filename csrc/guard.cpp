// See guard.h.
#include "csrc/guard.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <utility>

#include "mlx/backend/cpu/encoder.h"
#include "mlx/ops.h"

namespace mlx_ncps {
namespace {

constexpr const char* OP = "guard";
using Rules = std::shared_ptr<const std::vector<Rule>>;

// The number of the bytes of an element; of a float without its sign, as -0 is 0.
template <typename Bits>
bool is_set(const void* element, bool is_float) {
  Bits bits;
  std::memcpy(&bits, element, sizeof(Bits));
  return is_float ? Bits(bits << 1) != 0 : bits != 0;
}

bool is_set(const char* element, mx::Dtype dtype) {
  const bool is_float = mx::issubdtype(dtype, mx::floating);
  switch (dtype.size()) {
    case 1:
      return is_set<uint8_t>(element, false);
    case 2:
      return is_set<uint16_t>(element, is_float);
    case 4:
      return is_set<uint32_t>(element, is_float);
    default:
      return is_set<uint64_t>(element, is_float);
  }
}

void add_elements(const mx::array& a, int axis, const char* from, std::vector<char>& to) {
  if (axis == int(a.ndim())) return to.push_back(is_set(from, a.dtype()));
  const long step = long(a.strides(axis)) * long(a.itemsize());
  for (int i = 0; i < a.shape(axis); ++i) add_elements(a, axis + 1, from + i * step, to);
}

bool holds(const Rule& rule, const std::vector<char>& set) {
  for (size_t i = 0; i < rule.at.size(); ++i) {
    const auto first = rule.of.begin() + i * rule.width;
    const bool there = std::any_of(first, first + rule.width, [&](int e) { return set[e]; });
    const bool here = set[rule.at[i]];
    if (here != there && !(rule.own && here)) return false;
  }
  return true;
}

// Inputs: what is guarded, then the arrays.
class Guard : public mx::Primitive {
 public:
  Guard(mx::Stream s, Rules rules) : Primitive(s), rules_(std::move(rules)) {}

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    const auto value = row_contiguous(OP, {inputs[0]}, stream())[0];
    allocate(OP, outputs);
    auto& encoder = mx::cpu::get_command_encoder(stream());
    encoder.set_input_array(value);
    for (const auto& a : inputs) encoder.set_input_array(a);
    encoder.set_output_array(outputs[0]);
    Arrays arrays;
    for (auto a = inputs.begin() + 1; a != inputs.end(); ++a)
      arrays.push_back(mx::array::unsafe_weak_copy(*a));
    encoder.dispatch([arrays = std::move(arrays), rules = rules_, from = value.data<float>(),
                      to = outputs[0].data<float>(), n = outputs[0].size()] {
      enter_mlx_thread();
      std::vector<char> set;
      for (const auto& a : arrays)
        if (a.size() > 0) add_elements(a, 0, a.data<char>(), set);
      if (std::all_of(rules->begin(), rules->end(), [&](const auto& r) { return holds(r, set); }))
        std::copy_n(from, n, to);
      else
        std::fill_n(to, n, std::numeric_limits<float>::quiet_NaN());
    });
  }
  void eval_gpu(const Arrays&, Arrays&) override { no_derivative(OP, "GPU version"); }
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays&) override {
    Arrays gradients;
    for (const int i : argnums)
      gradients.push_back(i == 0 ? cotangents[0] : mx::zeros_like(primals[i], stream()));
    return gradients;
  }
  Arrays jvp(const Arrays&, const Arrays&, const std::vector<int>&) override {
    no_derivative(OP, "forward-mode derivative (jvp)");
  }
  Mapped vmap(const Arrays& inputs, const std::vector<int>& axes) override {
    const auto call = [this](const Arrays& in) { return Arrays{of(in)}; };
    return map_by_loop(OP, call, inputs, axes, stream());
  }
  const char* name() const override { return "Guard"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    return *rules_ == *static_cast<const Guard&>(other).rules_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override { return {in[0].shape()}; }

  mx::array of(const Arrays& inputs) {
    return mx::array(inputs[0].shape(), mx::float32, std::make_shared<Guard>(stream(), rules_),
                     inputs);
  }

 private:
  Rules rules_;
};

[[noreturn]] void fail(const std::string& what) {
  throw std::invalid_argument("[" + std::string(OP) + "] " + what);
}

}  // namespace

mx::array guarded(const mx::array& a, const Arrays& arrays, const std::vector<Rule>& rules,
                  mx::StreamOrDevice s) {
  if (a.dtype() != mx::float32) fail("what is guarded must be float32.");
  long size = 0;
  for (const auto& array : arrays) {
    if (!(array.dtype() == mx::bool_ || mx::issubdtype(array.dtype(), mx::integer) ||
          mx::issubdtype(array.dtype(), mx::floating)))
      fail("the arrays must hold real numbers.");
    size += long(array.size());
  }
  for (const auto& rule : rules) {
    if (rule.width < 0 || rule.of.size() != rule.at.size() * size_t(rule.width))
      fail("`of` must have `width` elements for each of `at`.");
    for (const auto* elements : {&rule.at, &rule.of})
      for (const int e : *elements)
        if (e < 0 || e >= size) fail("an element must lie in the arrays.");
  }
  Guard guard(mx::to_stream(s, mx::Device::cpu), std::make_shared<const std::vector<Rule>>(rules));
  Arrays inputs{a};
  inputs.insert(inputs.end(), arrays.begin(), arrays.end());
  return guard.of(inputs);
}

}  // namespace mlx_ncps
