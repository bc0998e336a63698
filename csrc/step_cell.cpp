// See step_cell.h.
#include "csrc/step_cell.h"

#include <algorithm>
#include <climits>
#include <functional>
#include <limits>
#include <stdexcept>

#include "csrc/any_dtype.h"
#include "csrc/cfc.h"
#include "csrc/cpu/kernels.h"
#include "csrc/ltc.h"
#include "csrc/mixed_memory.h"
#include "csrc/program.h"

namespace mlx_ncps {
namespace {

using Packed = std::unique_ptr<void, void (*)(void*)>;

struct Stage {
  std::optional<LtcProblem> ltc;
  std::optional<CfcProblem> cfc;
  Packed packed, merged;  // merged: for steps of one length, null where there is nothing to merge
  long inputs, units;
  std::shared_ptr<const SynapseLists> synapses;
  long evaluations = 0;  // of an LTC in a step
};

// A CfC for steps of the length `ts` alone: its two time heads are one. In two roundings, as MLX
// merges them.
Packed pack_merged(const Kernels& table, CfcProblem p, float ts) {
  Packed merged(nullptr, table.free_packed_cfc);
  if (p.heads != 4) return merged;
  const long fan_in = p.layers > 0 ? p.width[p.layers - 1] : p.I + p.H;
  std::vector<float> weight(p.H * fan_in), bias(p.H);
  const auto merge = [&](const float* const* from, std::vector<float>& to) {
    std::transform(from[2], from[2] + to.size(), to.begin(), [&](float a) { return ts * a; });
    std::transform(to.begin(), to.end(), from[3], to.begin(), std::plus<float>());
  };
  merge(p.head_weight, weight), merge(p.head_bias, bias);
  p.heads = 3, p.head_weight[2] = weight.data(), p.head_bias[2] = bias.data();
  merged.reset(table.new_packed_cfc(p));
  return merged;
}

// The kernels read the arrays' memory directly.
void check_evaluated(const Arrays& arrays) {
  for (const auto& a : arrays)
    if (a.dtype() != mx::float32 || !a.is_available() || !a.flags().row_contiguous)
      throw std::invalid_argument(
          "[step_cell] parameters must be evaluated, row-contiguous float32 arrays.");
}

std::vector<float> values(const std::optional<mx::array>& a, int count, const char* name) {
  if (!a) return {};
  check_shape("step_cell", name, *a, {count}, "[O]");
  if (!is_float(a->dtype()) || !a->is_available())
    throw std::invalid_argument("[step_cell] " + std::string(name) +
                                " must be an evaluated array of floats.");
  const mx::array all = plain(*a);
  return {all.data<float>(), all.data<float>() + count};
}

// Puts the LSTM in front of a cell. own: how many inputs it reads that are not the cell's; 0:
// those.
template <typename Problem>
void set_memory(Problem& p, const MemoryWeights& memory, int own = 0) {
  if (memory.empty()) return;
  const auto wanted = lstm_shapes("step_cell", own ? own : int(p.I), int(p.H));
  if (memory.size() != 3) throw std::invalid_argument("[step_cell] memory must be 3 arrays.");
  for (int i = 0; i < 3; ++i)
    check_shape("step_cell", "memory", memory[i], wanted[i], "the LSTM's");
  check_evaluated(memory);
  p.lstm.on = true;
  p.lstm.input_weight = memory[0].data<float>(), p.lstm.bias = memory[1].data<float>();
  p.lstm.recurrent_weight = memory[2].data<float>();
  if (own) p.lstm.x = p.lstm.input_weight, p.lstm.inputs = own;  // any x: those of a call follow
}

template <typename Problem>
void set_call(Problem& p, const StepCell::Call& call, const float* x, float* c) {
  p.B = call.B, p.T = call.T, p.x = x, p.ts = call.ts;
  p.lstm.c0 = call.c, p.lstm.c = c;
  if (p.lstm.x) p.lstm.x = call.x;
}

// to [rows, n] <- from, a row of n every `stride` floats; to's rows lie `apart`.
void copy_rows(const float* from, long stride, long rows, long n, float* to, long apart) {
  for (long r = 0; r < rows; ++r) std::copy_n(from + r * stride, n, to + r * apart);
}

long saturated_sum(long a, long b) { return a > LONG_MAX - b ? LONG_MAX : a + b; }

}  // namespace

long ltc_step_work(long inputs, long units, long evaluations, bool memory) {
  const long lstm = memory ? (inputs + units + 1) / 2 : 0;  // 4 H rows of I + H + 1 products
  const long gates = saturated_sum(saturated_product(units, evaluations), inputs + lstm);
  return saturated_product(saturated_product(8, units), gates);  // a gate is worth 8
}

long cfc_step_work(long inputs, long units, const std::vector<long>& backbone, bool pure,
                   bool memory) {
  long width = inputs + units, work = 0;
  const auto add = [&](long rows, long products) {
    work = saturated_sum(work, saturated_product(rows, products));
  };
  if (memory) add(4 * units, width + 1);
  for (long rows : backbone) add(rows, width + 1), width = rows;
  add(pure ? units : 4 * units, width + 1);
  if (pure) add(2, units);
  return work;
}

struct StepCell::Parts {
  const Kernels& table = kernels();
  std::shared_ptr<const Program> program;  // in place of stages
  std::shared_ptr<const Program::Plan> plan;
  Packed packed{nullptr, kernels().free_packed_program};
  std::unique_ptr<const StepCell> front;
  std::vector<Stage> stages;
  long inputs = 0, units = 0, widest = 0, first = 0, outputs = 0, work = 0;
  float merged_ts = 1.0f;
  double longest_ts = std::numeric_limits<double>::infinity();
  std::vector<float> w, b;
  mx::Dtype w_dtype = mx::float32, b_dtype = mx::float32;

  void add(Stage stage) {
    if (!stages.empty() && stage.inputs != stages.back().units)
      throw std::invalid_argument("[step_cell] a stage must read the state of the one before, of " +
                                  std::to_string(size_t(stages.back().units)) + " neurons, got " +
                                  std::to_string(size_t(stage.inputs)) + " inputs.");
    if (stages.empty()) inputs = stage.inputs;
    units += stage.units;
    if (stage.units > widest) widest = stage.units;
    stages.push_back(std::move(stage));
  }
  void put_in_front(const FrontLayers& layers) {
    const int width = layers.program->text().states[0];
    if (width != inputs)
      throw std::invalid_argument("[step_cell] layers in front must give the cell's " +
                                  std::to_string(size_t(inputs)) + " inputs, got " +
                                  std::to_string(size_t(width)) + ".");
    front = std::make_unique<StepCell>(layers.program, layers.captured, Readout{0, width, {}, {}});
    inputs = front->inputs(), work = saturated_sum(work, front->work());
  }
  long last_units() const { return program ? units : stages.back().units; }
  void set(const Readout& r) {
    if (stages.empty() && !program)
      throw std::invalid_argument("[step_cell] a chain must have a stage.");
    if (r.first < units - last_units() || r.count < 0 || long(r.first) + r.count > units)
      throw std::invalid_argument(
          "[step_cell] the outputs must lie within the state of the last stage.");
    first = r.first, outputs = r.count;
    w = values(r.w, r.count, "output_w"), b = values(r.b, r.count, "output_b");
    if (r.w) w_dtype = r.w->dtype();
    if (r.b) b_dtype = r.b->dtype();
  }
  // output [rows, O] of states of the last stage, `stride` floats apart.
  void read_out(const float* states, long rows, long stride, mx::Dtype dtype, float* output) const {
    const float* from = states + first - (units - last_units());
    if (dtype != mx::float32) return read_out_half(from, rows, stride, dtype, output);
    for (long r = 0; r < rows; ++r)
      for (long o = 0; o < outputs; ++o) {
        float value = from[r * stride + o];
        if (!w.empty()) value *= w[o];
        if (!b.empty()) value += b[o];
        output[r * outputs + o] = value;
      }
  }
  // Each operation's result has the dtype that MLX's has.
  void read_out_half(const float* from, long rows, long stride, mx::Dtype dtype,
                     float* output) const {
    const auto product = w.empty() ? dtype : promoted(dtype, w_dtype);
    const auto sum = b.empty() ? product : promoted(product, b_dtype);
    for (long r = 0; r < rows; ++r)
      for (long o = 0; o < outputs; ++o) {
        float value = rounded(from[r * stride + o], dtype);
        if (!w.empty()) value = rounded(value * w[o], product);
        if (!b.empty()) value = rounded(value + b[o], sum);
        output[r * outputs + o] = value;
      }
  }
};

StepCell::StepCell(const Arrays& folded, int unfolds, const std::string& solver,
                   std::shared_ptr<const SynapseLists> synapses, const MemoryWeights& memory,
                   const Readout& readout, double longest_ts,
                   const std::optional<FrontLayers>& front) {
  check_evaluated(folded);
  auto parts = std::make_unique<Parts>();
  parts->longest_ts = longest_ts;
  auto p = ltc_cell(folded, unfolds, solver, synapses);
  set_memory(p, memory, front ? front->program->text().steps[0] : 0);
  const auto& table = parts->table;
  parts->add({p,
              {},
              Packed(table.new_packed_ltc(p), table.free_packed_ltc),
              Packed(nullptr, table.free_packed_ltc),
              p.I,
              p.H,
              synapses,
              ltc_evaluations(unfolds, solver)});
  parts->work = ltc_step_work(p.I, p.H, parts->stages[0].evaluations, !memory.empty());
  if (front) parts->put_in_front(*front);
  parts->set(readout);
  parts_ = std::move(parts);
}

StepCell::StepCell(const std::vector<CfcStage>& chain, const MemoryWeights& memory,
                   const Readout& readout, std::optional<float> only_ts) {
  if (!memory.empty() && chain.size() != 1)
    throw std::invalid_argument("[step_cell] memory wants a chain of one.");
  auto parts = std::make_unique<Parts>();
  parts->merged_ts = only_ts.value_or(1.0f);
  const auto& table = parts->table;
  for (const auto& stage : chain) {
    check_evaluated(stage.weights);
    auto p = cfc_cell(stage.weights, stage.inputs, stage.layers, stage.mode, stage.activation,
                      stage.head_activation);
    set_memory(p, memory);
    Packed merged = pack_merged(table, p, parts->merged_ts), packed(nullptr, table.free_packed_cfc);
    if (!only_ts || !merged) packed.reset(table.new_packed_cfc(p));
    parts->add({{}, p, std::move(packed), std::move(merged), p.I, p.H, {}});
    const std::vector<long> backbone(p.width, p.width + p.layers);
    parts->work = saturated_sum(parts->work,
                                cfc_step_work(p.I, p.H, backbone, p.heads == 1, !memory.empty()));
  }
  parts->set(readout);
  parts_ = std::move(parts);
}

StepCell::StepCell(std::shared_ptr<const Program> program, const Arrays& captured,
                   const Readout& readout) {
  check_evaluated(captured);
  const auto& t = program->text();
  if (t.steps.size() != 2 || t.steps[1] != 1 || t.states.size() > 2 ||
      t.states.back() != t.states[0] || t.outputs.size() > 1)
    throw std::invalid_argument(
        "[step_cell] a program must read x and ts and have one state or two of one size.");
  if (captured.size() != t.captured.size())
    throw std::invalid_argument("[step_cell] a program wants all its captured arrays.");
  std::vector<const float*> pointers;
  for (size_t n = 0; n < captured.size(); ++n) {
    check_shape("step_cell", "a captured array", captured[n], t.captured[n], "that of the trace");
    pointers.push_back(captured[n].data<float>());
  }
  auto parts = std::make_unique<Parts>();
  parts->inputs = t.steps[0], parts->units = t.states[0], parts->work = program->work();
  parts->plan = program->plan(parts->table.lanes, false);
  parts->packed.reset(
      parts->table.new_packed_program({.plan = &parts->plan->view, .captured = pointers.data()}));
  parts->program = std::move(program);
  parts->set(readout);
  if (!t.outputs.empty()) parts->outputs = parts->program->size(t.outputs[0]);
  parts_ = std::move(parts);
}

StepCell::~StepCell() = default;

namespace {

// One stage of a chain: x [B, T, I], h [B, H] -> states [B, T, H], with memory c [B, T, H] too.
void run_stage(const Kernels& table, const Stage& stage, const StepCell::Call& call, const float* x,
               float* c, const float* h, float* states, bool merged) {
  if (stage.ltc) {
    auto p = *stage.ltc;
    set_call(p, call, x, c);
    p.v0 = h, p.v = states;
    const auto* lists = stage.synapses.get();
    const auto kernel = lists ? choose_ltc_kernel(int(p.B), int(p.I), int(p.H), stage.evaluations,
                                                  lists, /*threads=*/false)
                              : LtcKernel::DENSE;
    table.run_packed_ltc(stage.packed.get(), p, kernel);
  } else {
    auto p = *stage.cfc;
    set_call(p, call, x, c);
    p.h0 = h, p.h = states;
    if (merged && stage.merged) p.heads = 3;
    table.run_packed_cfc((p.heads == 3 ? stage.merged : stage.packed).get(), p);
  }
}

}  // namespace

int StepCell::inputs() const { return int(parts_->inputs); }
int StepCell::units() const { return int(parts_->units); }
int StepCell::outputs() const { return int(parts_->outputs); }
long StepCell::work() const { return parts_->work; }
bool StepCell::reads_state() const {
  const auto& k = *parts_;
  if (has_output()) return false;
  return k.first == 0 && k.outputs == k.units && k.w.empty() && k.b.empty();
}
bool StepCell::takes(const std::vector<float>& ts) const {
  const double longest = parts_->longest_ts;
  if (longest == std::numeric_limits<double>::infinity()) return true;
  return std::none_of(ts.begin(), ts.end(), [&](float one) { return one >= longest; });
}
bool StepCell::current() const { return &parts_->table == &kernels(); }

bool StepCell::has_output() const {
  return parts_->program && !parts_->program->text().outputs.empty();
}

bool StepCell::has_memory() const {
  if (parts_->program) return parts_->program->text().states.size() == 2;
  const Stage& first = parts_->stages.front();
  return first.ltc ? first.ltc->lstm.on : first.cfc->lstm.on;
}

void StepCell::run_program(const Call& call) const {
  const auto& k = *parts_;
  const long B = call.B, T = call.T, n = k.units;
  const bool pair = has_memory(), own = has_output(), whole = call.every && reads_state(),
             direct = T == 1;
  std::vector<float> h(whole || direct ? 0 : B * T * n), c(pair && !direct ? B * T * n : 0),
      outputs(own && (!call.output || !(call.every || direct)) ? B * T * k.outputs : 0);
  const float *steps[2] = {call.x, call.ts}, *states[2] = {call.h, call.c};
  float* const all_h = whole ? call.output : direct ? call.last_h : h.data();
  float* next[2] = {all_h, direct ? call.last_c : c.data()};
  float* const output = outputs.empty() ? call.output : outputs.data();
  k.table.run_packed_program(k.packed.get(), {.plan = &k.plan->view,
                                              .B = B,
                                              .T = T,
                                              .steps = steps,
                                              .states = states,
                                              .next = next,
                                              .outputs = &output});
  if (all_h != call.last_h) copy_rows(all_h + (T - 1) * n, T * n, B, n, call.last_h, n);
  if (!c.empty()) copy_rows(c.data() + (T - 1) * n, T * n, B, n, call.last_c, n);
  if (!outputs.empty() && call.output) {
    const long width = k.outputs;
    copy_rows(output + (T - 1) * width, T * width, B, width, call.output, width);
  } else if (call.output && !whole && !own) {
    if (call.every)
      k.read_out(all_h, B * T, n, mx::float32, call.output);
    else
      k.read_out(all_h + (T - 1) * n, B, T * n, mx::float32, call.output);
  }
}

std::vector<float> StepCell::through_front(const Call& call) const {
  if (!parts_->front) return {};
  const long rows = call.B * call.T, width = parts_->front->units();
  std::vector<float> features(rows * width), before(rows * width);
  parts_->front->run({.B = rows,
                      .T = 1,
                      .x = call.x,
                      .ts = call.ts,
                      .h = before.data(),
                      .c = nullptr,
                      .last_h = features.data(),
                      .last_c = nullptr,
                      .output = nullptr,
                      .every = false});
  return features;
}

void StepCell::read_out(const float* states, long B, mx::Dtype dtype, float* output) const {
  const auto& k = *parts_;
  k.read_out(states + k.units - k.last_units(), B, k.units, dtype, output);
}

void StepCell::run(const Call& call) const {
  const auto& k = *parts_;
  if (k.program) return run_program(call);
  const long B = call.B, T = call.T;
  const bool chain = k.stages.size() > 1, direct = !chain && T == 1,
             whole = call.every && reads_state();  // the states are the outputs
  std::vector<float> from(chain ? B * k.widest : 0), c(has_memory() && T > 1 ? B * T * k.units : 0),
      scratch[2];
  const bool merged =
      std::all_of(call.ts, call.ts + B * T, [&](float ts) { return ts == k.merged_ts; });
  float* const all_c = c.empty() ? call.last_c : c.data();  // [B, T, H]
  const auto features = through_front(call);
  const float* in = features.empty() ? call.x : features.data();
  float* states = nullptr;  // of a stage, [B, T, H_l]
  long at = 0, n = 0, s = 0;
  for (const auto& stage : k.stages) {
    n = stage.units;
    const float* h = call.h;
    if (chain) copy_rows(call.h + at, k.units, B, n, from.data(), n), h = from.data();
    if (!direct && !whole) scratch[s % 2].resize(B * T * n);
    states = whole ? call.output : direct ? call.last_h : scratch[s % 2].data();
    run_stage(k.table, stage, call, in, all_c, h, states, merged);
    if (states != call.last_h)
      copy_rows(states + (T - 1) * n, T * n, B, n, call.last_h + at, k.units);
    in = states, at += n, ++s;
  }
  if (!c.empty()) copy_rows(all_c + (T - 1) * n, T * n, B, n, call.last_c, n);
  if (!call.output || whole) return;
  if (call.every)
    k.read_out(states, B * T, n, call.dtype, call.output);
  else
    k.read_out(states + (T - 1) * n, B, T * n, call.dtype, call.output);
}

}  // namespace mlx_ncps
