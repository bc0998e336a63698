// The CPU kernels compiled for AVX-512 (F, BW, DQ, VL); chosen by csrc/cpu/isa.cpp.
#include "csrc/cpu/kernels.h"

#include <immintrin.h>

#define NCPS_VECTOR_BYTES 64

namespace mlx_ncps {
namespace {
#include "csrc/cpu/kernels.inl"
}  // namespace

const Kernels& kernels_avx512() {
  static constexpr Kernels table{
      "avx512",         int(W),         ltc_forward,       ltc_backward,
      cfc_forward,      cfc_backward,   new_packed_ltc,    run_packed_ltc,
      free_packed_ltc,  new_packed_cfc, run_packed_cfc,    free_packed_cfc,
      int(LIMIT_BLOCK), run_gates,      run_multiply_adds, run_maths};
  return table;
}
}  // namespace mlx_ncps
