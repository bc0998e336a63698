// Cells whose parameters are packed once and run many times: what a stream of single steps calls. A
// packed cell is never written after it is made, so that several threads may run it.
#pragma once

#include "csrc/cpu/cfc.inl"
#include "csrc/cpu/ltc_lists.inl"
#include "csrc/cpu/program.inl"

namespace mlx_ncps {
namespace {

// The LSTM of a packed cell, on the arrays of a call.
template <typename Problem>
static Lstm lstm_of_call(Lstm k, const Problem& p, const float* h0, const float* h) {
  k.p.c0 = p.lstm.c0, k.p.c = p.lstm.c, k.p.gates = p.lstm.gates;
  k.T = p.T, k.x = p.lstm.x ? p.lstm.x : p.x, k.h0 = h0, k.h = h;
  return k;
}

// The runs are empty where the problem has no lists.
struct LtcCell {
  LtcDense dense;
  SynapseRuns recurrent, sensory;
};

struct TakeLtcCell {
  const LtcProblem& p;
  LtcCell operator()(Carver& memory) const {
    LtcCell cell{.dense = make_ltc_dense(p, false, memory), .recurrent = {}, .sensory = {}};
    if (!p.recurrent_list) return cell;
    cell.recurrent =
        make_runs(p.recurrent, p.recurrent_list, p.recurrent_count, p.H, p.H, false, memory);
    cell.sensory = make_runs(p.sensory, p.sensory_list, p.sensory_count, p.H, p.H, false, memory);
    return cell;
  }
};
using PackedLtc = Carved<TakeLtcCell>;

static void* new_packed_ltc(const LtcProblem& p) { return new PackedLtc(TakeLtcCell{p}); }

static void run_packed_ltc(const void* packed, const LtcProblem& call, LtcKernel kernel) {
  const LtcCell& ltc = static_cast<const PackedLtc*>(packed)->arrays;
  auto p = call;
  p.cm = ltc.dense.cm, p.leak_num = ltc.dense.leak_num, p.leak_den = ltc.dense.leak_den;
  const Lstm lstm = lstm_of_call(ltc.dense.lstm, p, p.v0, p.v);
  if (kernel == LtcKernel::LISTS) return ltc_lists_forward_all(p, ltc.recurrent, ltc.sensory, lstm);
  LtcDense dense = ltc.dense;
  dense.p = p, dense.lstm = lstm;
  ltc_dense_forward_all(dense);
}

static void free_packed_ltc(void* packed) { delete static_cast<PackedLtc*>(packed); }

struct TakeCfc {
  const CfcProblem& p;
  Cfc operator()(Carver& memory) const { return make_cfc(p, false, memory); }
};
using PackedCfc = Carved<TakeCfc>;

static void* new_packed_cfc(const CfcProblem& p) {
  auto* packed = new PackedCfc(TakeCfc{p});
  pack_cfc(packed->arrays);
  return packed;
}

static void run_packed_cfc(const void* packed, const CfcProblem& p) {
  Cfc k = static_cast<const PackedCfc*>(packed)->arrays;
  k.p = p, k.lstm = lstm_of_call(k.lstm, p, p.h0, p.h);
  cfc_forward_all(k);
}

static void free_packed_cfc(void* packed) { delete static_cast<PackedCfc*>(packed); }

struct TakeProgram {
  const ProgramProblem& p;
  ProgramFixed operator()(Carver& memory) const { return take_fixed(p, true, false, memory); }
};
using PackedProgram = Carved<TakeProgram>;

static void* new_packed_program(const ProgramProblem& p) {
  auto* packed = new PackedProgram(TakeProgram{p});
  fill_fixed(p, packed->arrays, true, false);
  return packed;
}

static void run_packed_program(const void* packed, const ProgramProblem& p) {
  program_forward_all(p, static_cast<const PackedProgram*>(packed)->arrays);
}

static void free_packed_program(void* packed) { delete static_cast<PackedProgram*>(packed); }

}  // namespace
}  // namespace mlx_ncps
