// A primitive over a mapped axis as one primitive of its own: mx.vmap over weights, one model after
// the other.
#pragma once

#include <memory>

#include "csrc/primitive.h"

namespace mlx_ncps {

// What Primitive::vmap returns: `primitive`, whose outputs are float32 and which asks `allocate`
// for their memory, runs once per element of the mapped axis, on the elements where they lie, and
// writes its outputs side by side.
Mapped map_in_place(const char* op, std::shared_ptr<mx::Primitive> primitive, const Arrays& inputs,
                    const std::vector<int>& axes);

}  // namespace mlx_ncps
