// See metallib.h. Without Metal (Linux) everything here answers that there is none.
#include "csrc/metallib.h"

#include <stdexcept>

#ifdef _METAL_
#include <dlfcn.h>

#include <filesystem>

#include "mlx/backend/metal/device.h"
#include "mlx/backend/metal/utils.h"
#endif

namespace mlx_ncps {
namespace {

#ifdef _METAL_
constexpr const char* LIBRARY = "mlx_ncps";

// The folder of this extension.
std::string folder() {
  Dl_info info;
  if (!dladdr(reinterpret_cast<void*>(&metallib_available), &info))
    throw std::runtime_error("[mlx_ncps] dladdr failed.");
  return std::filesystem::path(info.dli_fname).parent_path().string();
}

MTL::Library* library(mx::metal::Device& device) {
  static const std::string path = folder();
  return device.get_library(LIBRARY, path);
}

MTL::ComputePipelineState* pipeline(mx::metal::Device& device, const std::string& function) {
  return device.get_kernel(function, library(device));
}
#endif

class MetallibKernel : public mx::Primitive {
 public:
  MetallibKernel(mx::Stream s, std::string function, const Arrays& inputs,
                 std::vector<mx::Shape> shapes, Size3 grid, Size3 threadgroup)
      : Primitive(s),
        function_(std::move(function)),
        inputs_(shapes_and_dtypes(inputs)),
        shapes_(std::move(shapes)),
        grid_(grid),
        threadgroup_(threadgroup) {}

  void eval_cpu(const Arrays&, Arrays&) override {
    throw std::runtime_error("[" + function_ + "] a Metal kernel can't run on the CPU.");
  }
  void eval_gpu(const Arrays& inputs, Arrays& outputs) override;

  const char* name() const override { return "MetallibKernel"; }
  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& o = static_cast<const MetallibKernel&>(other);
    return function_ == o.function_ && inputs_ == o.inputs_ && shapes_ == o.shapes_ &&
           grid_ == o.grid_ && threadgroup_ == o.threadgroup_;
  }
  // The grid and what was computed from shapes belong to these inputs alone.
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override {
    check(inputs);
    return shapes_;
  }

 private:
  using Inputs = std::vector<std::pair<mx::Shape, mx::Dtype>>;

  static Inputs shapes_and_dtypes(const Arrays& arrays) {
    Inputs all;
    for (const auto& a : arrays) all.emplace_back(a.shape(), a.dtype());
    return all;
  }
  void check(const Arrays& inputs) const {
    if (shapes_and_dtypes(inputs) != inputs_)
      throw std::invalid_argument("[" + function_ +
                                  "] the inputs have other shapes than the kernel was launched "
                                  "for: use mx.compile without shapeless=True.");
  }

  std::string function_;
  Inputs inputs_;
  std::vector<mx::Shape> shapes_;
  Size3 grid_, threadgroup_;
};

#ifdef _METAL_
void MetallibKernel::eval_gpu(const Arrays& inputs, Arrays& outputs) {
  check(inputs);
  for (const auto& a : inputs)
    if (!a.flags().row_contiguous)
      throw std::runtime_error("[" + function_ + "] an input is not row-contiguous.");
  allocate(function_.c_str(), outputs);
  auto& device = mx::metal::device(stream().device);
  auto* kernel = pipeline(device, function_);
  const auto [x, y, z] = threadgroup_;
  if (size_t(x) * y * z > kernel->maxTotalThreadsPerThreadgroup())
    throw std::runtime_error("[" + function_ + "] wanted " + std::to_string(size_t(x) * y * z) +
                             " threads per threadgroup, this device allows " +
                             std::to_string(kernel->maxTotalThreadsPerThreadgroup()) + ".");
  auto& encoder = mx::metal::get_command_encoder(stream());
  encoder.set_compute_pipeline_state(kernel);
  int buffer = 0;
  for (const auto& a : inputs) encoder.set_input_array(a, buffer++);
  for (auto& a : outputs) encoder.set_output_array(a, buffer++);
  const auto [grid_x, grid_y, grid_z] = grid_;
  encoder.dispatch_threads(MTL::Size(grid_x, grid_y, grid_z), MTL::Size(x, y, z));
}
#else
void MetallibKernel::eval_gpu(const Arrays&, Arrays&) {
  throw std::runtime_error("[" + function_ + "] this build has no Metal.");
}
#endif

}  // namespace

bool metallib_available() {
#ifdef _METAL_
  return MLX_NCPS_HAS_METALLIB && mx::metal::is_available() &&
         std::filesystem::exists(folder() + "/" + LIBRARY + ".metallib");
#else
  return false;
#endif
}

int metallib_max_threads(const std::string& function) {
#ifdef _METAL_
  if (metallib_available()) try {
      return int(
          pipeline(mx::metal::device(mx::Device::gpu), function)->maxTotalThreadsPerThreadgroup());
    } catch (
        const std::exception&) {  // no such function: a variant that was not compiled ahead of time
    }
#endif
  return 0;
}

Arrays metallib_kernel(const std::string& function, const Arrays& inputs,
                       const std::vector<mx::Shape>& output_shapes, Size3 grid, Size3 threadgroup,
                       mx::StreamOrDevice s_) {
  if (!metallib_available())
    throw std::runtime_error(
        "[" + function +
        "] this build has no metallib; use mx.fast.metal_kernel, the backend metal's default.");
  const auto s = mx::to_stream(s_, mx::Device::gpu);
  Arrays contiguous;
  for (const auto& a : inputs) {
    const bool first_traced = contiguous.empty() && any_traced(inputs);
    contiguous.push_back(mx::contiguous(exportable_by_hint(a, first_traced, s), false, s));
  }
  for (const auto& shape : output_shapes) check_bytes(function.c_str(), shape);
  const std::vector<mx::Dtype> dtypes(output_shapes.size(), mx::float32);
  return mx::array::make_arrays(
      output_shapes, dtypes,
      std::make_shared<MetallibKernel>(s, function, contiguous, output_shapes, grid, threadgroup),
      contiguous);
}

}  // namespace mlx_ncps
