// See mapped.h.
#include "csrc/mapped.h"

#include <utility>

#include "mlx/ops.h"
#include "mlx/transforms.h"

namespace mlx_ncps {
namespace {

mx::Shape without(mx::Shape shape, int axis) {
  if (axis >= 0) shape.erase(shape.begin() + axis);
  return shape;
}

// Element v along an axis, where it lies; `a` itself where the axis is below 0.
mx::array element(const mx::array& a, int axis, int v) {
  if (axis < 0) return a;
  const auto shape = without(a.shape(), axis);
  auto strides = a.strides();
  strides.erase(strides.begin() + axis);
  bool rows = true;
  long dense = 1;
  for (int i = int(shape.size()) - 1; i >= 0; --i) {
    rows = rows && (shape[i] == 1 || strides[i] == dense);
    dense *= shape[i];
  }
  auto flags = a.flags();
  flags.contiguous = flags.row_contiguous = rows, flags.col_contiguous = false;
  mx::array part(shape, a.dtype(), nullptr, {});
  part.copy_shared_buffer(a, strides, flags, part.size(), v * a.strides(axis));
  return part;
}

class InPlace : public mx::Primitive {
 public:
  InPlace(const char* op, std::shared_ptr<mx::Primitive> one, std::vector<int> axes, int size)
      : Primitive(one->stream()),
        op_(op),
        one_(std::move(one)),
        axes_(std::move(axes)),
        size_(size) {}

  void eval_cpu(const Arrays& given, Arrays& outputs) override {
    allocate(op_, outputs);
    auto inputs = given;
    for (size_t i = 0; i < inputs.size(); ++i)  // what all elements share is laid out once
      if (axes_[i] < 0) inputs[i] = row_contiguous(op_, {inputs[i]}, stream())[0];
    for (int v = 0; v < size_; ++v) {
      Arrays in, out;
      for (size_t i = 0; i < inputs.size(); ++i) in.push_back(element(inputs[i], axes_[i], v));
      for (const auto& a : outputs) out.push_back(element(a, 0, v));
      one_->eval_cpu(in, out);
    }
  }
  void eval_gpu(const Arrays&, Arrays&) override { no_derivative(op_, "GPU version"); }

  // That of each element, mapped; what is not mapped itself gets the sum.
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override {
    auto all = primals;
    all.insert(all.end(), cotangents.begin(), cotangents.end());
    all.insert(all.end(), outputs.begin(), outputs.end());
    auto axes = axes_;
    axes.resize(all.size(), 0);
    const auto gradient = [&](const Arrays& in) {
      const auto cotangent = in.begin() + primals.size(), output = cotangent + outputs.size();
      return one_->vjp(Arrays(in.begin(), cotangent), Arrays(cotangent, output), argnums,
                       Arrays(output, in.end()));
    };
    auto gradients = mx::vmap(gradient, axes, std::vector<int>(argnums.size(), 0))(all);
    for (size_t i = 0; i < argnums.size(); ++i) {
      const int axis = axes_[argnums[i]];
      auto& g = gradients[i];
      g = axis < 0 ? mx::sum(g, 0, false, stream()) : mx::moveaxis(g, 0, axis, stream());
    }
    return gradients;
  }
  Arrays jvp(const Arrays&, const Arrays&, const std::vector<int>&) override {
    no_derivative(op_, "forward-mode derivative (jvp)");
  }
  Mapped vmap(const Arrays& inputs, const std::vector<int>& axes) override {
    return map_in_place(op_, std::make_shared<InPlace>(op_, one_, axes_, size_), inputs, axes);
  }
  const char* name() const override { return one_->name(); }
  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& o = static_cast<const InPlace&>(other);
    const auto &mine = *one_, &its = *o.one_;
    return axes_ == o.axes_ && size_ == o.size_ && typeid(mine) == typeid(its) &&
           mine.is_equivalent(its);
  }
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override {
    Arrays in;  // shapes alone count
    for (size_t i = 0; i < inputs.size(); ++i)
      in.emplace_back(without(inputs[i].shape(), axes_[i]), inputs[i].dtype(), nullptr, Arrays{});
    auto shapes = one_->output_shapes(in);
    for (auto& shape : shapes) {
      shape.insert(shape.begin(), size_);
      check_bytes(op_, shape);
    }
    return shapes;
  }

 private:
  const char* op_;
  std::shared_ptr<mx::Primitive> one_;
  std::vector<int> axes_;  // the mapped axis of each input, or -1
  int size_;               // elements
};

}  // namespace

Mapped map_in_place(const char* op, std::shared_ptr<mx::Primitive> primitive, const Arrays& inputs,
                    const std::vector<int>& axes) {
  refuse_shapeless(op, "mx.vmap");
  const int size = mapped_size(inputs, axes);
  const auto all = std::make_shared<InPlace>(op, std::move(primitive), axes, size);
  const auto shapes = all->output_shapes(inputs);
  const std::vector<mx::Dtype> dtypes(shapes.size(), mx::float32);
  return {mx::array::make_arrays(shapes, dtypes, all, inputs), std::vector<int>(shapes.size(), 0)};
}

}  // namespace mlx_ncps
