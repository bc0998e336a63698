// dropout_factors: the factors of dropout, drawn from a key as MLX draws.
#pragma once

#include "csrc/primitive.h"

namespace mlx_ncps {

// float32 [shape]: 0 with probability `rate`, else 1 / (1 - rate); bit for bit
// mx.random.bernoulli(1 - rate, shape, key) / (1 - rate), in parallel.
//   key [2] uint32: an mx.random.key; rate in [0, 1). Throws std::invalid_argument for others.
mx::array dropout_factors(const mx::array& key, const std::vector<int>& shape, double rate,
                          mx::StreamOrDevice s);

}  // namespace mlx_ncps
