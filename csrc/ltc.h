// ltc_sequence: an LTC over a whole sequence as one MLX primitive with its gradient (MATHS 3).
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "csrc/cpu/kernels.h"
#include "csrc/primitive.h"

namespace mlx_ncps {

// The non-zero entries of a wiring's masks, sorted by target, then source.
struct SynapseLists {
  int inputs, units;
  std::vector<Synapse> recurrent, sensory;

  // Throws std::invalid_argument where a neuron or input does not exist, or a synapse occurs twice.
  SynapseLists(std::vector<int> source, std::vector<int> target, std::vector<int> sensory_source,
               std::vector<int> sensory_target, int inputs, int units);

  // Pairs of a source and a block of `lanes` (4, 8 or 16) targets that have a synapse: what the
  // dense forward evaluates.
  struct Blocks {
    long recurrent, sensory;
  };
  Blocks blocks(long lanes) const { return blocks_[lanes / 8]; }

  inline static std::atomic<long> made = 0;  // how many there were so far

 private:
  std::array<Blocks, 3> blocks_;
};

//   x [B, T, I], v0 [B, H], ts [B, T]; folded: cm leak_num leak_den [H], s2 m2 w we [H, H], sensory
//   s2 m2 w we [I, H], where s2 = -sigma log2 e, m2 = sigma mu log2 e, w = pos(w)|mask|, we = w
//   erev, leak_num = g vleak, leak_den = g + epsilon
// solver: a name of NCPS_LTC_SOLVERS (metal/ltc.h).
// Returns v after every step [B, T, H], of x's dtype.
// memory: c0 [B, H], input_weight [4H, I], bias [4H], recurrent_weight [4H, H] of an LSTM in front
// of the cell (MATHS 4), and [B, T, M] if it reads that in place of x; c comes out beside v.
// resets: [B, T], not 0 where a step starts anew, and the v [B, H] to start from; with memory the
// c, too. With `save` the forward keeps what the backward reads; without, a backward runs the
// forward again.
States ltc_sequence(const mx::array& x, const mx::array& v0, const mx::array& ts,
                    const Arrays& folded, int unfolds, const std::string& solver,
                    std::shared_ptr<const SynapseLists> synapses,
                    const std::optional<Arrays>& memory, const std::optional<Arrays>& resets,
                    bool save, mx::StreamOrDevice s);

// The cell alone, of the same folded arrays, which must be evaluated.
LtcProblem ltc_cell(const Arrays& folded, int unfolds, const std::string& solver,
                    const std::shared_ptr<const SynapseLists>& synapses);

// How often a step evaluates the recurrent synapses: the unfolds times the stages of the solver.
long ltc_evaluations(int unfolds, const std::string& solver);

// The largest rate of a neuron (MATHS 3.20) of gleak, cm [H], w [H, H], sensory_w [I, H] and the
// two masks; `implicit`: the first four before softplus. Nothing where one is not evaluated,
// row-contiguous float32 of its shape.
std::optional<double> largest_rate(const Arrays& parameters, bool implicit);

// Which kernel ltc_sequence runs for this shape; without `threads` a call on one thread alone.
LtcKernel choose_ltc_kernel(int B, int I, int H, long evaluations, const SynapseLists* synapses,
                            bool threads = true);

}  // namespace mlx_ncps
