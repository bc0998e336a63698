// All CPU kernels of one instruction set; included by csrc/cpu/kernels_<isa>.cpp inside an
// anonymous namespace.
#include "csrc/cpu/cfc.inl"
#include "csrc/cpu/cfc_backward.inl"
#include "csrc/cpu/gemm.inl"
#include "csrc/cpu/ltc_dense.inl"
#include "csrc/cpu/ltc_dense_backward.inl"
#include "csrc/cpu/ltc_sparse.inl"
#include "csrc/cpu/ltc_sparse_backward.inl"
#include "csrc/cpu/memory.inl"
#include "csrc/cpu/simd.inl"
#include "metal/activations.h"
#include "metal/cfc.h"
#include "metal/ltc.h"
