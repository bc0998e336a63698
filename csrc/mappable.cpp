// See mappable.h.
#include "csrc/mappable.h"

#include <memory>

namespace mlx_ncps {
namespace {

class Mappable : public mx::Primitive {
 public:
  using Shapes = std::vector<mx::Shape>;
  using Dtypes = std::vector<mx::Dtype>;

  Mappable(std::shared_ptr<mx::Primitive> launch, Shapes shapes, Dtypes dtypes)
      : Primitive(launch->stream()),
        launch_(std::move(launch)),
        shapes_(std::move(shapes)),
        dtypes_(std::move(dtypes)) {}

  void eval_cpu(const Arrays& in, Arrays& out) override { launch_->eval_cpu(in, out); }
  void eval_gpu(const Arrays& in, Arrays& out) override { launch_->eval_gpu(in, out); }
  Mapped vmap(const Arrays& inputs, const std::vector<int>& axes) override {
    const auto call = [this](const Arrays& one) { return run(one); };
    return map_by_loop("vmap", call, inputs, axes, stream());
  }
  const char* name() const override { return "CustomKernel"; }

  Arrays run(const Arrays& inputs) const {
    const auto again = std::make_shared<Mappable>(launch_, shapes_, dtypes_);
    return mx::array::make_arrays(shapes_, dtypes_, again, inputs);
  }

 private:
  std::shared_ptr<mx::Primitive> launch_;
  Shapes shapes_;
  Dtypes dtypes_;
};

}  // namespace

Arrays mappable(const Arrays& outputs) {
  if (outputs.empty() || !outputs[0].has_primitive() || !any_traced(outputs[0].inputs()))
    return outputs;
  for (const auto& a : outputs)  // of one launch, as all of a kernel's are
    if (!a.has_primitive() || a.primitive_id() != outputs[0].primitive_id()) return outputs;
  Mappable::Shapes shapes;
  Mappable::Dtypes dtypes;
  for (const auto& a : outputs) shapes.push_back(a.shape()), dtypes.push_back(a.dtype());
  return Mappable(outputs[0].primitive_ptr(), shapes, dtypes).run(outputs[0].inputs());
}

}  // namespace mlx_ncps
