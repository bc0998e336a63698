// The CPU kernels compiled for the baseline of the target (SSE2 on x86-64, NEON on arm64); chosen
// by csrc/cpu/isa.cpp.
#include "csrc/cpu/kernels.h"

#ifdef __ARM_NEON
#include <arm_neon.h>
#endif

#define NCPS_VECTOR_BYTES 16

namespace mlx_ncps {
namespace {
#include "csrc/cpu/kernels.inl"
}  // namespace

#ifdef __ARM_NEON
#define NAME "neon"
#else
#define NAME "baseline"
#endif

const Kernels& kernels_baseline() {
  static constexpr Kernels table{
      NAME,           int(W),          ltc_forward,      ltc_backward,    cfc_forward,
      cfc_backward,   new_packed_ltc,  run_packed_ltc,   free_packed_ltc, new_packed_cfc,
      run_packed_cfc, free_packed_cfc, int(LIMIT_BLOCK), run_gates,       run_multiply_adds,
      run_maths};
  return table;
}
}  // namespace mlx_ncps
