// The same small operation on many pairs of arrays, as one MLX primitive: a training step of a
// small model takes as long as the number of its primitives.
#pragma once

#include "csrc/primitive.h"

namespace mlx_ncps {

// x[i] * y[i] of float32 arrays of equal shapes, also for their gradients.
Arrays products(const Arrays& x, const Arrays& y, mx::StreamOrDevice s);

// factor * x[i] + y[i], each rounded by itself.
Arrays scaled_sums(const Arrays& x, const Arrays& y, float factor, mx::StreamOrDevice s);

}  // namespace mlx_ncps
