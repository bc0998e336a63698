// Kernels compiled ahead of time: runs a function of mlx_ncps.metallib, which the build puts beside
// the extension where Xcode's `metal` exists. The arguments and the geometry are those of
// mx.fast.metal_kernel, so that mlx_ncps.backends.metal launches either.
#pragma once

#include <string>
#include <tuple>

#include "csrc/primitive.h"

namespace mlx_ncps {

using Size3 = std::tuple<int, int, int>;

// True where this build has a metallib and MLX a Metal device.
bool metallib_available();

// Threads per threadgroup that the function's pipeline allows; 0 where the metallib has no such
// function.
int metallib_max_threads(const std::string& function);

// Runs `function` over `grid` threads in threadgroups of `threadgroup`. Buffers: the inputs in
// order, then the outputs. All outputs are float32. Throws std::runtime_error where there is no
// metallib or no such function.
Arrays metallib_kernel(const std::string& function, const Arrays& inputs,
                       const std::vector<mx::Shape>& output_shapes, Size3 grid, Size3 threadgroup,
                       mx::StreamOrDevice s);

}  // namespace mlx_ncps
