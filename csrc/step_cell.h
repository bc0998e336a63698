// A cell for streams: parameters folded, packed and copied once, a few steps computed at once on
// the calling thread, without a graph.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "csrc/primitive.h"

namespace mlx_ncps {

struct SynapseLists;
class Program;

// Where the outputs lie in the state, and of a chain in its last stage: `count` neurons from
// `first`, times w, plus b where given.
struct Readout {
  int first, count;
  std::optional<mx::array> w, b;  // [count], of floats
};

// The LSTM of mixed memory: input_weight [4H, I], bias [4H], recurrent_weight [4H, H]; or nothing.
using MemoryWeights = Arrays;

// A CfC of a chain, weights as cfc_sequence reads them, time heads not merged.
struct CfcStage {
  Arrays weights;
  int inputs, layers;
  std::string mode, activation, head_activation;
};

// Layers without a state in front of an LTC: a program of x [I] and ts [1] whose new state,
// whatever the one before, is what the LTC reads; and the arrays that it captured.
struct FrontLayers {
  std::shared_ptr<const Program> program;
  Arrays captured;
};

// The work of one row and step by sizes alone: multiply-adds, or what takes as long, 30 or so to
// the ns; memory: behind an LSTM.
long ltc_step_work(long inputs, long units, long evaluations, bool memory);
long cfc_step_work(long inputs, long units, const std::vector<long>& backbone, bool pure,
                   bool memory);

class StepCell {
 public:
  // folded: the eleven arrays of ltc_sequence, from cm on; synapses: their lists, or null. From the
  // elapsed time `longest_ts` on steps are left to a graph, whose code has something to say of
  // them. Behind layers in front the LSTM reads what they read.
  StepCell(const Arrays& folded, int unfolds, const std::string& solver,
           std::shared_ptr<const SynapseLists> synapses, const MemoryWeights& memory,
           const Readout& readout, double longest_ts,
           const std::optional<FrontLayers>& front = std::nullopt);
  // A chain: each stage reads the new state of the one before; the states lie side by side. Memory
  // wants a chain of one. only_ts: the elapsed time of every step to come, if it is known; else
  // steps of length 1 are the quicker ones, for which a quarter of the heads' weights need not be
  // read.
  StepCell(const std::vector<CfcStage>& chain, const MemoryWeights& memory, const Readout& readout,
           std::optional<float> only_ts = std::nullopt);
  // A step program of the inputs x [I] and ts [1] and of the states h and perhaps c [H]. Where it
  // has an output, that is the output, else `readout` is.
  StepCell(std::shared_ptr<const Program> program, const Arrays& captured, const Readout& readout);
  ~StepCell();

  int inputs() const;
  int units() const;
  int outputs() const;
  // Of one row and step, as ltc_step_work and cfc_step_work count it.
  long work() const;
  // Whether output and state are the same numbers.
  bool reads_state() const;
  // Whether the output is no part of the state, but a program's own result.
  bool has_output() const;
  // Whether the state is (h, c).
  bool has_memory() const;
  // Whether steps of these lengths may be run.
  bool takes(const std::vector<float>& ts) const;
  // Whether the instruction set is still the one that the parameters were packed for.
  bool current() const;

  // x [B, T, I], ts [B, T], h and with memory c [B, H] -> the last ones, and unless it is null
  // output, [B, T, O] with `every`, else [B, O], read as MLX reads it from states of `dtype`.
  struct Call {
    long B, T;
    const float *x, *ts, *h, *c;
    float *last_h, *last_c, *output;
    bool every;
    mx::Dtype dtype = mx::float32;
  };
  void run(const Call& call) const;
  // output [B, O] of whole states [B, H].
  void read_out(const float* states, long B, mx::Dtype dtype, float* output) const;

 private:
  struct Parts;
  void run_program(const Call& call) const;
  // What the layers in front give of a call's inputs, [B, T, K]; nothing without any.
  std::vector<float> through_front(const Call& call) const;
  std::unique_ptr<const Parts> parts_;
};

}  // namespace mlx_ncps
