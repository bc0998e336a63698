// Stand-in for <metal_stdlib>, compiled ahead of every kernel as C++ for OpenCL 2021.
//
// In that language __global, __local, __constant and __private are real address spaces, methods can
// be qualified with one, and double, virtual, new, function pointers and mutable globals are
// errors, as in Metal. Names that start with __msl_ are ours; the runtime defines the functions
// among them.
#pragma once
#pragma OPENCL EXTENSION cl_khr_fp16 : enable

// clang-format off: each header uses those before it
#include "types.h"
#include "runtime.h"
#include "traits.h"
#include "vectors.h"
#include "limits.h"
#include "math.h"
#include "common.h"
#include "integer.h"
#include "sync.h"
#include "simd.h"
#include "simdgroup_matrix.h"
#include "atomic.h"
#include "array.h"
#include "launcher.h"
// clang-format on
