// Raw parameters in the form that the kernels read (MATHS 6), as one MLX primitive and one for its
// gradient, to the bit what backends/fold.py computes in MLX operations.
#pragma once

#include <optional>

#include "csrc/primitive.h"

namespace mlx_ncps {

//   weights: gleak vleak cm [H], w sigma mu erev [H, H], sensory w sigma mu erev [I, H]
//   mask [H, H], sensory_mask [I, H], input_w, input_b [I]: each may be missing
// All float32. Returns the folded arrays of ltc_sequence (csrc/ltc.h); `implicit` passes w,
// sensory w, cm and gleak through softplus.
Arrays fold_ltc(const Arrays& weights, const std::optional<mx::array>& mask,
                const std::optional<mx::array>& sensory_mask,
                const std::optional<mx::array>& input_w, const std::optional<mx::array>& input_b,
                bool implicit, float epsilon, mx::StreamOrDevice s);

}  // namespace mlx_ncps
