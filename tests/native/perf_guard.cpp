// Runs one CPU kernel on a fixed problem, on one thread; tools/perf_guard.py counts the
// instructions between entry and exit of guarded_call(). Without arguments: prints the cases.
#include <cstdio>
#include <cstring>

#include "csrc/cpu/thread_pool.h"
#include "tests/native/guarded_calls.h"

namespace {

using namespace mlx_ncps;
using namespace guarded_calls;

// PACKED: one step of a cell whose parameters were packed before. DRAW: the factors of dropout.
enum Part { FORWARD, INFERENCE, BACKWARD, PACKED, DRAW };

enum Cell { CFC, LTC, LTC_LISTS, PROGRAM };

struct Case {
  const char* name;
  void (*make)(Call&);
  Cell cell;
  Part part;
  LtcKernel kernel() const { return cell == LTC_LISTS ? LtcKernel::LISTS : LtcKernel::DENSE; }
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

void program_gru(Call& c) { make_gru(c, 16, 6, 32, 64); }
void program_odd(Call& c) { make_gru(c, 7, 6, 5, 37); }
void program_others(Call& c) { make_others(c, 16, 6, 64); }
void program_step(Call& c) { make_gru(c, 1, 1, 64, 128); }

const Case CASES[] = {
    {"ltc_dense_inference", ltc_dense, LTC, INFERENCE},
    {"ltc_dense_forward", ltc_dense, LTC, FORWARD},
    {"ltc_dense_backward", ltc_dense, LTC, BACKWARD},
    {"ltc_odd_sizes_forward", ltc_odd, LTC, FORWARD},
    {"ltc_odd_sizes_backward", ltc_odd, LTC, BACKWARD},
    {"ltc_lists_forward", ltc_lists, LTC_LISTS, FORWARD},
    {"ltc_lists_backward", ltc_lists, LTC_LISTS, BACKWARD},
    {"ltc_explicit_forward", ltc_euler, LTC, FORWARD},
    {"ltc_explicit_backward", ltc_euler, LTC, BACKWARD},
    {"ltc_explicit_lists_forward", ltc_euler_lists, LTC_LISTS, FORWARD},
    {"ltc_explicit_lists_backward", ltc_euler_lists, LTC_LISTS, BACKWARD},
    {"ltc_runge_kutta_forward", ltc_runge_kutta, LTC, FORWARD},
    {"ltc_runge_kutta_backward", ltc_runge_kutta, LTC, BACKWARD},
    {"ltc_runge_kutta_lists_forward", ltc_runge_kutta_lists, LTC_LISTS, FORWARD},
    {"ltc_runge_kutta_lists_backward", ltc_runge_kutta_lists, LTC_LISTS, BACKWARD},
    {"ltc_step", ltc_step, LTC, INFERENCE},
    {"cfc_merged_inference", cfc_merged, CFC, INFERENCE},
    {"cfc_merged_forward", cfc_merged, CFC, FORWARD},
    {"cfc_merged_backward", cfc_merged, CFC, BACKWARD},
    {"cfc_array_forward", cfc_array, CFC, FORWARD},
    {"cfc_array_backward", cfc_array, CFC, BACKWARD},
    {"cfc_odd_sizes_forward", cfc_odd, CFC, FORWARD},
    {"cfc_odd_sizes_backward", cfc_odd, CFC, BACKWARD},
    {"cfc_step", cfc_step, CFC, INFERENCE},
    {"cfc_dropout_forward", cfc_dropped, CFC, FORWARD},
    {"cfc_dropout_backward", cfc_dropped, CFC, BACKWARD},
    {"dropout_factors", cfc_dropped, CFC, DRAW},
    {"cfc_mixed_memory_forward", cfc_mixed, CFC, FORWARD},
    {"cfc_mixed_memory_backward", cfc_mixed, CFC, BACKWARD},
    {"ltc_packed_step", ltc_step, LTC, PACKED},
    {"cfc_packed_step", cfc_step, CFC, PACKED},
    {"program_gru_forward", program_gru, PROGRAM, FORWARD},
    {"program_gru_backward", program_gru, PROGRAM, BACKWARD},
    {"program_odd_sizes_forward", program_odd, PROGRAM, FORWARD},
    {"program_odd_sizes_backward", program_odd, PROGRAM, BACKWARD},
    {"program_no_products_forward", program_others, PROGRAM, FORWARD},
    {"program_no_products_backward", program_others, PROGRAM, BACKWARD},
    {"program_packed_step", program_step, PROGRAM, PACKED},
};

void run_packed(const Case& each, const Call& call) {
  if (each.cell == PROGRAM)
    kernels().run_packed_program(call.packed, call.program);
  else if (each.cell == CFC)
    kernels().run_packed_cfc(call.packed, call.cfc);
  else
    kernels().run_packed_ltc(call.packed, call.ltc, each.kernel());
}

void* new_packed(const Case& each, const Call& call) {
  if (each.cell == PROGRAM) return kernels().new_packed_program(call.program);
  return each.cell == CFC ? kernels().new_packed_cfc(call.cfc) : kernels().new_packed_ltc(call.ltc);
}

void free_packed(const Case& each, void* packed) {
  const auto& k = kernels();
  (each.cell == PROGRAM ? k.free_packed_program
   : each.cell == CFC   ? k.free_packed_cfc
                        : k.free_packed_ltc)(packed);
}

void run(const Case& each, Call& call, bool backward) {
  if (each.part == DRAW) {
    static const unsigned key[] = {1, 2};
    const CfcProblem& p = call.cfc;
    return kernels().draw_factors(
        {key, p.B * p.T * p.dropped_width, 1ul << 31, 2.0f, const_cast<float*>(p.dropout)});
  }
  if (call.packed) return run_packed(each, call);
  if (each.cell == PROGRAM)
    return (backward ? kernels().program_backward : kernels().program_forward)(call.program);
  if (each.cell == CFC)
    return (backward ? kernels().cfc_backward : kernels().cfc_forward)(call.cfc);
  (backward ? kernels().ltc_backward : kernels().ltc_forward)(call.ltc, each.kernel());
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
    if (each.part == PACKED) call.packed = new_packed(each, call);
    if (each.part == BACKWARD) run(each, call, false);
    guarded_call(&each, &call);
    if (call.packed) free_packed(each, call.packed);
    std::printf("%s %s\n", each.name, kernels().name);
    return 0;
  }
  if (argc > 1) std::fprintf(stderr, "no case %s\n", argv[1]);
  return argc > 1;
}
