// The CPU kernels compiled for AVX2 and FMA.
#include "csrc/cpu/kernels.inl"

namespace mlx_ncps {

const Kernels& kernels_avx2() {
  static constexpr Kernels table = table_of("avx2");
  return table;
}

}  // namespace mlx_ncps
