// The CPU kernels compiled for AVX-512 (F, BW, DQ, VL).
#include "csrc/cpu/kernels.inl"

namespace mlx_ncps {

const Kernels& kernels_avx512() {
  static constexpr Kernels table = table_of("avx512");
  return table;
}

}  // namespace mlx_ncps
