// The CPU kernels compiled for the baseline of the target: SSE2 on x86-64, NEON on arm64.
#include "csrc/cpu/kernels.inl"

namespace mlx_ncps {

const Kernels& kernels_baseline() {
#ifdef __ARM_NEON
  static constexpr Kernels table = table_of("neon");
#else
  static constexpr Kernels table = table_of("baseline");
#endif
  return table;
}

}  // namespace mlx_ncps
