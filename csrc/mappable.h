// mappable: results of a GPU kernel that mx.vmap can map. MLX's CustomKernel can't be, and mx.vmap
// also visits what a custom function with a rule of its own is made of.
#pragma once

#include "csrc/primitive.h"

namespace mlx_ncps {

// The outputs of one launch as they are, or where an input is a tracer through a primitive that
// runs the same launch, and maps it by a loop.
Arrays mappable(const Arrays& outputs);

}  // namespace mlx_ncps
