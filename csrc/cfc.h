// cfc_sequence: a CfC over a whole sequence as one MLX primitive with its gradient (MATHS 1).
#pragma once

#include <optional>
#include <string>

#include "csrc/cpu/kernels.h"
#include "csrc/primitive.h"

namespace mlx_ncps {

// weights, in order: `layers` pairs (W [K, in], b [K]) of the backbone, whose first layer reads [x,
// h]; then the heads (W [H, in], b [H]): ff1, ff2, time_a, time_b, or with merged time heads ff1,
// ff2, t = ts time_a + time_b, or in pure mode ff1; then in pure mode w_tau [H], A [H]. Four heads
// and pure mode read ts [B, T]; with `merged` it is not looked at.
//   x [B, T, I], h0 [B, H]; mode: a name of NCPS_CFC_MODES (metal/cfc.h); activation of the
//   backbone and head_activation of ff1 and ff2: names of NCPS_ACTIVATIONS (metal/activations.h)
//   for each; the latter is not looked at in pure mode.
// Returns h after every step [B, T, H], of x's dtype. With `save` the forward keeps what the
// backward reads; without, a backward runs the forward again.
// memory: c0 [B, H], input_weight [4H, I], bias [4H], recurrent_weight [4H, H] of an LSTM in front
// of the cell (MATHS 4); c comes out beside h.
// dropout [B, T, units of layers first_dropped, ... side by side]: factors of what those layers
// give; it has no gradient.
// resets: [B, T], not 0 where a step starts anew, and the h [B, H] to start from; with memory the
// c, too.
States cfc_sequence(const mx::array& x, const mx::array& h0, const std::optional<mx::array>& ts,
                    const Arrays& weights, int layers, const std::string& mode,
                    const std::string& activation, const std::string& head_activation, bool merged,
                    const std::optional<Arrays>& memory, const std::optional<mx::array>& dropout,
                    int first_dropped, const std::optional<Arrays>& resets, bool save,
                    mx::StreamOrDevice s);

// The cell alone, of evaluated weights with four heads, or in pure mode one.
CfcProblem cfc_cell(const Arrays& weights, int inputs, int layers, const std::string& mode,
                    const std::string& activation, const std::string& head_activation);

}  // namespace mlx_ncps
