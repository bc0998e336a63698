// All CPU kernels of one instruction set, in the order in which each builds on the ones before it;
// included by csrc/cpu/kernels_<isa>.cpp inside an anonymous namespace.
// clang-format off
#include "csrc/cpu/simd.inl"
#include "csrc/cpu/memory.inl"
#include "metal/activations.h"
#include "metal/cfc.h"
#include "metal/ltc.h"
#include "csrc/cpu/gemm.inl"
#include "csrc/cpu/lstm.inl"
#include "csrc/cpu/lstm_backward.inl"
#include "csrc/cpu/ltc_dense.inl"
#include "csrc/cpu/ltc_dense_backward.inl"
#include "csrc/cpu/ltc_sparse.inl"
#include "csrc/cpu/ltc_sparse_backward.inl"
#include "csrc/cpu/cfc.inl"
#include "csrc/cpu/cfc_backward.inl"
#include "csrc/cpu/packed.inl"
#include "csrc/cpu/limits.inl"
