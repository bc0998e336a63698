// Problems of the CPU kernels with the arrays that they read and write.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "csrc/cpu/kernels.h"
#include "metal/activations.h"
#include "metal/cfc.h"
#include "metal/ltc.h"
#include "tests/native/step_program.h"

namespace guarded_calls {

using namespace mlx_ncps;
using kernel_tests::StepPlan;
using kernel_tests::StepProgram;
using Floats = std::vector<float>;

// Numbers in [low, high], the same on every machine; the kernels have no branch that depends on
// them.
inline Floats draw(long count, float low, float high) {
  static unsigned state = 1;
  Floats out(count);
  for (float& v : out) {
    state = state * 1664525u + 1013904223u;
    v = low + (high - low) * (float(state >> 8) / 16777216.0f);
  }
  return out;
}

// A call that is ready to run, with the arrays it reads and writes.
struct Call {
  std::vector<Floats> arrays;
  std::vector<Synapse> lists[2];
  LtcProblem ltc{};
  CfcProblem cfc{};
  std::unique_ptr<StepProgram> text;
  std::unique_ptr<StepPlan> plan;
  ProgramProblem program{};
  std::vector<const float*> read_by_program;
  std::vector<float*> written_by_program;
  void* packed = nullptr;
  float* read(long count, float low, float high) {
    arrays.push_back(draw(count, low, high));
    return arrays.back().data();
  }
  float* write(long count) { return read(count, 0, 0); }
};

// keep: every keep-th synapse exists, in the lists; 1 is the dense wiring.
inline void make_ltc(Call& c, long B, long T, long I, long H, long U, long keep,
                     int solver = NCPS_LTC_SEMI_IMPLICIT) {
  LtcProblem& p = c.ltc;
  p.B = p.element = B, p.T = T, p.I = I, p.H = H, p.U = U, p.solver = solver;
  const long evaluations = solver == NCPS_LTC_RUNGE_KUTTA ? 4 * U : U;
  p.x = c.read(B * T * I, -1, 1), p.v0 = c.read(B * H, -1, 1), p.ts = c.read(B * T, .1f, 2);
  p.cm = c.read(H, .4f, .6f), p.leak_num = c.read(H, -.2f, .2f), p.leak_den = c.read(H, .1f, 1);
  for (auto [synapses, sources] : {std::pair{&p.recurrent, H}, {&p.sensory, I}})
    *synapses = {c.read(sources * H, -9, -3), c.read(sources * H, 1, 5),
                 c.read(sources * H, .01f, 1), c.read(sources * H, -1, 1)};
  for (int sensory = 0; sensory < 2; ++sensory)
    for (int j = 0; j < H; ++j)
      for (int i = 0; i < (sensory ? I : H); ++i)
        if ((i * H + j) % keep == 0) c.lists[sensory].push_back({i, j});
  p.recurrent_list = c.lists[0].data(), p.recurrent_count = long(c.lists[0].size());
  p.sensory_list = c.lists[1].data(), p.sensory_count = long(c.lists[1].size());
  p.v = c.write(B * T * H), p.saved = c.write(B * T * evaluations * 2 * H),
  p.dv = c.read(B * T * H, -1, 1);
  p.dx = c.write(B * T * I), p.dv0 = c.write(B * H), p.dts = c.write(B * T);
  p.dcm = c.write(H), p.dleak_num = c.write(H), p.dleak_den = c.write(H);
  for (auto [synapses, sources] : {std::pair{&p.drecurrent, H}, {&p.dsensory, I}})
    *synapses = {c.write(sources * H), c.write(sources * H), c.write(sources * H),
                 c.write(sources * H)};
}

// heads: 3 with a number as time span, 4 with an array of them.
inline void make_cfc(Call& c, long B, long T, long I, long H, long K, int heads) {
  CfcProblem& p = c.cfc;
  p.B = B, p.T = T, p.I = I, p.H = H, p.layers = 1, p.heads = heads;
  p.mode = NCPS_CFC_DEFAULT, p.activation = NCPS_LECUN_TANH, p.head_activation = NCPS_TANH;
  p.saved_width = K + heads * H;
  p.x = c.read(B * T * I, -1, 1), p.h0 = c.read(B * H, -1, 1);
  p.ts = heads == 4 ? c.read(B * T, .1f, 2) : nullptr;
  p.dts = heads == 4 ? c.write(B * T) : nullptr;
  p.width[0] = K, p.weight[0] = c.read(K * (I + H), -.2f, .2f), p.bias[0] = c.read(K, -.2f, .2f);
  p.dweight[0] = c.write(K * (I + H)), p.dbias[0] = c.write(K);
  for (int n = 0; n < heads; ++n) {
    p.head_weight[n] = c.read(H * K, -.2f, .2f), p.head_bias[n] = c.read(H, -.2f, .2f);
    p.dhead_weight[n] = c.write(H * K), p.dhead_bias[n] = c.write(H);
  }
  p.h = c.write(B * T * H), p.saved = c.write(B * T * p.saved_width);
  p.dh = c.read(B * T * H, -1, 1), p.dx = c.write(B * T * I), p.dh0 = c.write(B * H);
}

// The LSTM of mixed memory in front of the cell.
inline void add_lstm(Call& c, LstmProblem& p, long B, long T, long I, long H) {
  p.on = true;
  p.c0 = c.read(B * H, -1, 1), p.input_weight = c.read(4 * H * I, -.2f, .2f);
  p.bias = c.read(4 * H, -.2f, .2f), p.recurrent_weight = c.read(4 * H * H, -.2f, .2f);
  p.c = c.write(B * T * H), p.gates = c.write(B * T * 4 * H), p.dc = c.read(B * T * H, -1, 1);
  p.dc0 = c.write(B * H), p.dinput_weight = c.write(4 * H * I), p.dbias = c.write(4 * H);
  p.drecurrent_weight = c.write(4 * H * H);
}

// Drops the one layer of a CfC.
inline void add_dropout(Call& c) {
  CfcProblem& p = c.cfc;
  p.dropped_width = p.width[0], p.dropout = c.read(p.B * p.T * p.dropped_width, 0, 2);
}

// Calls a step program; every array of a call in the order of its value ids, then the results.
inline void bind_program(Call& c, long B, long T) {
  const StepProgram& text = *c.text;
  ProgramProblem& p = c.program;
  c.plan = std::make_unique<StepPlan>(text, kernels().lanes);
  const long steps = text.input(0), states = text.state(0), ends = text.state(text.states);
  for (long id = 0; id < ends; ++id) {
    const long count = (id < steps ? 1 : id < states ? B * T : B) * text.sizes[id];
    c.read_by_program.push_back(c.read(count, .1f, .4f));
    c.written_by_program.push_back(c.write(count));
  }
  for (const auto* ids : {&text.next, &text.outputs})
    for (int id : *ids) {
      c.read_by_program.push_back(c.read(B * T * text.sizes[id], -1, 1));
      c.written_by_program.push_back(c.write(B * T * text.sizes[id]));
    }
  const auto* in = c.read_by_program.data();
  auto* out = c.written_by_program.data();
  p.plan = &c.plan->view, p.B = B, p.T = T;
  p.captured = in, p.steps = in + steps, p.states = in + states;
  p.reset_states = p.states, p.dreset_states = out + states;
  p.dcaptured = out, p.dsteps = out + steps, p.dstates = out + states;
  p.dnext = in + ends, p.doutputs = in + ends + text.states;
  p.next = out + ends, p.outputs = out + ends + text.states;
}

// A gated recurrent unit: products, and an elementwise part.
inline void make_gru(Call& c, long B, long T, long I, long H) {
  using enum ProgramOp;
  c.text = std::make_unique<StepProgram>(std::vector<long>{I * H, I * H, H * H, H * H, H, H},
                                         std::vector<long>{I}, std::vector<long>{H});
  StepProgram& p = *c.text;
  const int x = p.input(0), h = p.state(0), one = p.constant(1),
            from_x = p.matmul(x, 0, I, H, false, 4), from_h = p.matmul(h, 2, H, H, true),
            gate = p.in_step(SIGMOID, H, {p.in_step(ADD, H, {from_x, from_h})}),
            kept = p.in_step(MUL, H, {gate, h}), now = p.matmul(x, 1, I, H, false, 5),
            sum = p.in_step(ADD, H, {now, p.matmul(kept, 3, H, H, true)}),
            fresh = p.in_step(MUL, H, {p.in_step(SUB, H, {one, gate}), p.in_step(TANH, H, {sum})});
  p.next = {p.in_step(ADD, H, {kept, fresh})};
  bind_program(c, B, T);
}

// Every instruction but products, on rows of n, after another.
inline void make_others(Call& c, long B, long T, long n) {
  using enum ProgramOp;
  c.text = std::make_unique<StepProgram>(std::vector<long>{n}, std::vector<long>{n, 1},
                                         std::vector<long>{n});
  StepProgram& p = *c.text;
  const int half = int(n / 2);
  int a = p.in_step(ADD, n, {p.input(0), p.state(0)});
#define NCPS_OP(NAME, name, operands)                                               \
  if (NAME < MOVE)                                                                  \
    a = p.in_step(NAME, n,                                                          \
                  operands == 1   ? std::vector<int>{a}                             \
                  : operands == 2 ? std::vector<int>{a, NAME < GT ? p.input(1) : 0} \
                                  : std::vector<int>{a, p.input(0), p.state(0)});
  NCPS_PROGRAM_OPS(NCPS_OP)
#undef NCPS_OP
  const int turned = p.in_step(MOVE, n, {a}, {0, half, half, 1, half, 0, half, 1}),
            soft = p.in_step(SOFTMAX, n, {turned}, {2, half}),
            sum = p.in_step(SUM, half, {soft}, {1, 2, half});
  p.outputs = {sum, p.in_step(SUM, 1, {a}, {1, int(n), 1})};
  p.next = {p.in_step(TANH, n, {p.in_step(MUL, n, {soft, 0})})};
  bind_program(c, B, T);
}

}  // namespace guarded_calls
