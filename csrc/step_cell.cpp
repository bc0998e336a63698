// See step_cell.h.
#include "csrc/step_cell.h"

#include <algorithm>
#include <stdexcept>

#include "csrc/cfc.h"
#include "csrc/cpu/kernels.h"
#include "csrc/ltc.h"

namespace mlx_ncps {
namespace {

using Packed = std::unique_ptr<void, void (*)(void*)>;

struct Stage {
  std::optional<LtcProblem> ltc;
  std::optional<CfcProblem> cfc;
  Packed packed;
  long inputs, units;
  std::shared_ptr<const SynapseLists> synapses;
};

std::vector<float> values(const std::optional<mx::array>& a, int count, const char* name) {
  if (!a) return {};
  check_shape("step_cell", name, *a, {count}, "[O]");
  if (a->dtype() != mx::float32) throw std::invalid_argument("[step_cell] wants float32.");
  return {a->data<float>(), a->data<float>() + count};
}

// The kernels read the arrays' memory directly.
void check_evaluated(const Arrays& arrays) {
  for (const auto& a : arrays)
    if (a.dtype() != mx::float32 || !a.is_available() || !a.flags().row_contiguous)
      throw std::invalid_argument(
          "[step_cell] parameters must be evaluated, row-contiguous float32 arrays.");
}

// Puts the LSTM in front of a cell.
template <typename Problem>
void set_memory(Problem& p, const MemoryWeights& memory) {
  if (memory.empty()) return;
  const int H = p.H, I = p.I;
  const mx::Shape wanted[] = {{4 * H, I}, {4 * H}, {4 * H, H}};
  if (memory.size() != 3) throw std::invalid_argument("[step_cell] memory must be 3 arrays.");
  for (int i = 0; i < 3; ++i)
    check_shape("step_cell", "memory", memory[i], wanted[i], "the LSTM's");
  check_evaluated(memory);
  p.lstm.on = true;
  p.lstm.input_weight = memory[0].data<float>(), p.lstm.bias = memory[1].data<float>();
  p.lstm.recurrent_weight = memory[2].data<float>();
}

template <typename Problem>
void set_call(Problem& p, long B, const float* x, const float* ts, const StepCell::State& state) {
  p.B = B, p.T = 1, p.x = x, p.ts = ts;
  p.lstm.c0 = state.c, p.lstm.c = state.next_c;
}

}  // namespace

struct StepCell::Parts {
  const Kernels& table = kernels();
  std::vector<Stage> stages;
  long inputs = 0, units = 0, widest = 0, first = 0, outputs = 0, work = 0;
  std::vector<float> w, b;

  void add(Stage stage) {
    if (stages.empty()) inputs = stage.inputs;
    units += stage.units;
    if (stage.units > widest) widest = stage.units;
    stages.push_back(std::move(stage));
  }
  void set(const Readout& r) {
    if (r.first < 0 || r.count < 0 || r.first + r.count > units)
      throw std::invalid_argument("[step_cell] the outputs must lie within the state.");
    first = r.first, outputs = r.count;
    w = values(r.w, r.count, "output_w"), b = values(r.b, r.count, "output_b");
  }
};

StepCell::StepCell(const Arrays& folded, int unfolds, std::shared_ptr<const SynapseLists> synapses,
                   const MemoryWeights& memory, const Readout& readout) {
  check_evaluated(folded);
  auto parts = std::make_unique<Parts>();
  auto p = ltc_cell(folded, unfolds, synapses.get());
  set_memory(p, memory);
  const auto& table = parts->table;
  parts->add({p, {}, Packed(table.new_packed_ltc(p), table.free_packed_ltc), p.I, p.H, synapses});
  parts->work = 8 * (p.H * p.U + p.I) * p.H;  // a gate is worth 8
  parts->set(readout);
  parts_ = std::move(parts);
}

StepCell::StepCell(const std::vector<CfcStage>& chain, const MemoryWeights& memory,
                   const Readout& readout) {
  if (!memory.empty() && chain.size() != 1)
    throw std::invalid_argument("[step_cell] memory wants a chain of one.");
  auto parts = std::make_unique<Parts>();
  const auto& table = parts->table;
  for (const auto& stage : chain) {
    check_evaluated(stage.weights);
    auto p = cfc_cell(stage.weights, stage.inputs, stage.layers, stage.mode, stage.activation,
                      stage.head_activation);
    set_memory(p, memory);
    parts->add({{}, p, Packed(table.new_packed_cfc(p), table.free_packed_cfc), p.I, p.H, {}});
    for (const auto& weight : stage.weights) parts->work += long(weight.size());
  }
  parts->set(readout);
  parts_ = std::move(parts);
}

StepCell::~StepCell() = default;

int StepCell::inputs() const { return int(parts_->inputs); }
int StepCell::units() const { return int(parts_->units); }
int StepCell::outputs() const { return int(parts_->outputs); }
long StepCell::work() const { return parts_->work; }
bool StepCell::reads_state() const {
  const auto& k = *parts_;
  return k.first == 0 && k.outputs == k.units && k.w.empty() && k.b.empty();
}
bool StepCell::current() const { return &parts_->table == &kernels(); }

bool StepCell::has_memory() const {
  const Stage& first = parts_->stages.front();
  return first.ltc ? first.ltc->lstm.on : first.cfc->lstm.on;
}

void StepCell::run(long B, const float* x, const float* ts, const State& state,
                   float* output) const {
  const auto& k = *parts_;
  const auto one = [&](const Stage& stage, const float* in, const float* from, float* to) {
    if (stage.ltc) {
      auto p = *stage.ltc;
      set_call(p, B, in, ts, state);
      p.v0 = from, p.v = to;
      const bool lists = stage.synapses && ltc_kernel(int(B), int(p.I), int(p.H), int(p.U),
                                                      stage.synapses.get())[0] == 'l';
      k.table.run_packed_ltc(stage.packed.get(), p, lists);
    } else {
      auto p = *stage.cfc;
      set_call(p, B, in, ts, state);
      p.h0 = from, p.h = to;
      k.table.run_packed_cfc(stage.packed.get(), p);
    }
  };
  float* next = state.next_h;
  if (k.stages.size() == 1) {
    one(k.stages[0], x, state.h, next);
  } else {  // the states of one stage, [B, H_l], between its neighbours' in [B, H]
    std::vector<float> from(B * k.widest), to(B * k.widest), below(B * k.widest);
    long at = 0;
    for (const auto& stage : k.stages) {
      const long n = stage.units;
      for (long r = 0; r < B; ++r) std::copy_n(state.h + r * k.units + at, n, from.data() + r * n);
      one(stage, at == 0 ? x : below.data(), from.data(), to.data());
      for (long r = 0; r < B; ++r) std::copy_n(to.data() + r * n, n, next + r * k.units + at);
      below.swap(to);
      at += n;
    }
  }
  if (!output) return;
  for (long r = 0; r < B; ++r)
    for (long o = 0; o < k.outputs; ++o) {
      float value = next[r * k.units + k.first + o];
      if (!k.w.empty()) value *= k.w[o];
      if (!k.b.empty()) value += k.b[o];
      output[r * k.outputs + o] = value;
    }
}

}  // namespace mlx_ncps
