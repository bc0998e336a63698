// The formulas that the GPU runs too, for a SIMD vector of this instruction set.
#pragma once

#include "csrc/cpu/simd.inl"

namespace mlx_ncps {
namespace {

#include "metal/activations.h"
#include "metal/cfc.h"
#include "metal/lstm.h"
#include "metal/ltc.h"

}  // namespace
}  // namespace mlx_ncps
