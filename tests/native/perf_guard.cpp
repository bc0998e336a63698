// Runs one CPU kernel on a fixed problem, on one thread; tools/perf_guard.py counts the
// instructions between entry and exit of guarded_call(). Without arguments: prints the cases.
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "csrc/cpu/kernels.h"
#include "csrc/cpu/thread_pool.h"
#include "metal/activations.h"
#include "metal/cfc.h"
#include "metal/ltc.h"

namespace {

using namespace mlx_ncps;
using Floats = std::vector<float>;

// Numbers in [low, high], the same on every machine; the kernels have no branch that depends on
// them.
Floats draw(long count, float low, float high) {
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
  void* packed = nullptr;
  float* read(long count, float low, float high) {
    arrays.push_back(draw(count, low, high));
    return arrays.back().data();
  }
  float* write(long count) { return read(count, 0, 0); }
};

// keep: every keep-th synapse exists, in the lists; 1 is the dense wiring.
void make_ltc(Call& c, long B, long T, long I, long H, long U, long keep,
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
void make_cfc(Call& c, long B, long T, long I, long H, long K, int heads) {
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
void add_lstm(Call& c, LstmProblem& p, long B, long T, long I, long H) {
  p.on = true;
  p.c0 = c.read(B * H, -1, 1), p.input_weight = c.read(4 * H * I, -.2f, .2f);
  p.bias = c.read(4 * H, -.2f, .2f), p.recurrent_weight = c.read(4 * H * H, -.2f, .2f);
  p.c = c.write(B * T * H), p.gates = c.write(B * T * 4 * H), p.dc = c.read(B * T * H, -1, 1);
  p.dc0 = c.write(B * H), p.dinput_weight = c.write(4 * H * I), p.dbias = c.write(4 * H);
  p.drecurrent_weight = c.write(4 * H * H);
}

// Drops the one layer of a CfC.
void add_dropout(Call& c) {
  CfcProblem& p = c.cfc;
  p.dropped_width = p.width[0], p.dropout = c.read(p.B * p.T * p.dropped_width, 0, 2);
}

// PACKED: one step of a cell whose parameters were packed before. DRAW: the factors of dropout.
enum Part { FORWARD, INFERENCE, BACKWARD, PACKED, DRAW };

constexpr LtcKernel DENSE = LtcKernel::DENSE, LISTS = LtcKernel::LISTS;

struct Case {
  const char* name;
  void (*make)(Call&);
  bool is_ltc;
  LtcKernel kernel;
  Part part;
};

void ltc_dense(Call& c) { make_ltc(c, 8, 4, 16, 64, 6, 1); }
void ltc_odd(Call& c) { make_ltc(c, 7, 4, 5, 37, 6, 1); }
void ltc_lists(Call& c) { make_ltc(c, 16, 4, 16, 64, 6, 5); }
void ltc_euler(Call& c) { make_ltc(c, 8, 4, 16, 64, 6, 1, NCPS_LTC_EXPLICIT); }
void ltc_euler_lists(Call& c) { make_ltc(c, 16, 4, 16, 64, 6, 5, NCPS_LTC_EXPLICIT); }
void ltc_runge_kutta(Call& c) { make_ltc(c, 8, 4, 16, 64, 6, 1, NCPS_LTC_RUNGE_KUTTA); }
void ltc_runge_kutta_lists(Call& c) { make_ltc(c, 16, 4, 16, 64, 6, 5, NCPS_LTC_RUNGE_KUTTA); }
void ltc_step(Call& c) { make_ltc(c, 1, 1, 64, 64, 6, 1); }
void cfc_merged(Call& c) { make_cfc(c, 16, 6, 32, 64, 64, 3); }
void cfc_array(Call& c) { make_cfc(c, 16, 6, 32, 64, 64, 4); }
void cfc_odd(Call& c) { make_cfc(c, 7, 6, 5, 37, 41, 3); }
void cfc_step(Call& c) { make_cfc(c, 1, 1, 64, 128, 128, 3); }
void cfc_dropped(Call& c) { cfc_merged(c), add_dropout(c); }
void cfc_mixed(Call& c) {
  make_cfc(c, 16, 6, 32, 64, 64, 3);
  add_lstm(c, c.cfc.lstm, 16, 6, 32, 64);
}

const Case CASES[] = {
    {"ltc_dense_inference", ltc_dense, true, DENSE, INFERENCE},
    {"ltc_dense_forward", ltc_dense, true, DENSE, FORWARD},
    {"ltc_dense_backward", ltc_dense, true, DENSE, BACKWARD},
    {"ltc_odd_sizes_forward", ltc_odd, true, DENSE, FORWARD},
    {"ltc_odd_sizes_backward", ltc_odd, true, DENSE, BACKWARD},
    {"ltc_lists_forward", ltc_lists, true, LISTS, FORWARD},
    {"ltc_lists_backward", ltc_lists, true, LISTS, BACKWARD},
    {"ltc_explicit_forward", ltc_euler, true, DENSE, FORWARD},
    {"ltc_explicit_backward", ltc_euler, true, DENSE, BACKWARD},
    {"ltc_explicit_lists_forward", ltc_euler_lists, true, LISTS, FORWARD},
    {"ltc_explicit_lists_backward", ltc_euler_lists, true, LISTS, BACKWARD},
    {"ltc_runge_kutta_forward", ltc_runge_kutta, true, DENSE, FORWARD},
    {"ltc_runge_kutta_backward", ltc_runge_kutta, true, DENSE, BACKWARD},
    {"ltc_runge_kutta_lists_forward", ltc_runge_kutta_lists, true, LISTS, FORWARD},
    {"ltc_runge_kutta_lists_backward", ltc_runge_kutta_lists, true, LISTS, BACKWARD},
    {"ltc_step", ltc_step, true, DENSE, INFERENCE},
    {"cfc_merged_inference", cfc_merged, false, DENSE, INFERENCE},
    {"cfc_merged_forward", cfc_merged, false, DENSE, FORWARD},
    {"cfc_merged_backward", cfc_merged, false, DENSE, BACKWARD},
    {"cfc_array_forward", cfc_array, false, DENSE, FORWARD},
    {"cfc_array_backward", cfc_array, false, DENSE, BACKWARD},
    {"cfc_odd_sizes_forward", cfc_odd, false, DENSE, FORWARD},
    {"cfc_odd_sizes_backward", cfc_odd, false, DENSE, BACKWARD},
    {"cfc_step", cfc_step, false, DENSE, INFERENCE},
    {"cfc_dropout_forward", cfc_dropped, false, DENSE, FORWARD},
    {"cfc_dropout_backward", cfc_dropped, false, DENSE, BACKWARD},
    {"dropout_factors", cfc_dropped, false, DENSE, DRAW},
    {"cfc_mixed_memory_forward", cfc_mixed, false, DENSE, FORWARD},
    {"cfc_mixed_memory_backward", cfc_mixed, false, DENSE, BACKWARD},
    {"ltc_packed_step", ltc_step, true, DENSE, PACKED},
    {"cfc_packed_step", cfc_step, false, DENSE, PACKED},
};

void run(const Case& each, Call& call, bool backward) {
  if (each.part == DRAW) {
    static const unsigned key[] = {1, 2};
    const CfcProblem& p = call.cfc;
    return kernels().draw_factors(
        {key, p.B * p.T * p.dropped_width, 1ul << 31, 2.0f, const_cast<float*>(p.dropout)});
  }
  if (call.packed && each.is_ltc)
    kernels().run_packed_ltc(call.packed, call.ltc, each.kernel);
  else if (call.packed)
    kernels().run_packed_cfc(call.packed, call.cfc);
  else if (each.is_ltc)
    (backward ? kernels().ltc_backward : kernels().ltc_forward)(call.ltc, each.kernel);
  else
    (backward ? kernels().cfc_backward : kernels().cfc_forward)(call.cfc);
}

}  // namespace

// Its name is what the tool toggles the counting by.
extern "C" __attribute__((noinline)) void guarded_call(const void* each, void* call) {
  run(*static_cast<const Case*>(each), *static_cast<Call*>(call),
      static_cast<const Case*>(each)->part == BACKWARD);
}

int main(int argc, char** argv) {
  if (argc == 1)
    for (const Case& each : CASES) std::puts(each.name);
  set_num_threads(1);
  for (const Case& each : CASES) {
    if (argc == 1 || std::strcmp(argv[1], each.name)) continue;
    Call call;
    call.arrays.reserve(64);
    each.make(call);
    if (each.part == INFERENCE || each.part == PACKED) call.ltc.saved = call.cfc.saved = nullptr;
    if (each.part == PACKED)
      call.packed =
          each.is_ltc ? kernels().new_packed_ltc(call.ltc) : kernels().new_packed_cfc(call.cfc);
    if (each.part == BACKWARD) run(each, call, false);
    guarded_call(&each, &call);
    if (call.packed)
      (each.is_ltc ? kernels().free_packed_ltc : kernels().free_packed_cfc)(call.packed);
    std::printf("%s %s\n", each.name, kernels().name);
    return 0;
  }
  if (argc > 1) std::fprintf(stderr, "no case %s\n", argv[1]);
  return argc > 1;
}
