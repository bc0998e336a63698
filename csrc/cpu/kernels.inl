// All CPU kernels of one instruction set, as their table.
#pragma once

#include "csrc/cpu/cfc_backward.inl"
#include "csrc/cpu/dropout.inl"
#include "csrc/cpu/limits.inl"
#include "csrc/cpu/ltc_lists_backward.inl"
#include "csrc/cpu/maths.inl"
#include "csrc/cpu/packed.inl"
#include "csrc/cpu/program_backward.inl"

namespace mlx_ncps {
namespace {

constexpr Kernels table_of(const char* name) {
  return {.name = name,
          .lanes = int(W),
          .ltc_forward = ltc_forward,
          .ltc_backward = ltc_backward,
          .cfc_forward = cfc_forward,
          .cfc_backward = cfc_backward,
          .new_packed_ltc = new_packed_ltc,
          .run_packed_ltc = run_packed_ltc,
          .free_packed_ltc = free_packed_ltc,
          .new_packed_cfc = new_packed_cfc,
          .run_packed_cfc = run_packed_cfc,
          .free_packed_cfc = free_packed_cfc,
          .program_forward = program_forward,
          .program_backward = program_backward,
          .new_packed_program = new_packed_program,
          .run_packed_program = run_packed_program,
          .free_packed_program = free_packed_program,
          .limit_block = int(LIMIT_BLOCK),
          .run_gates = run_gates,
          .run_multiply_adds = run_multiply_adds,
          .draw_factors = draw_factors,
          .run_maths = run_maths};
}

}  // namespace
}  // namespace mlx_ncps
