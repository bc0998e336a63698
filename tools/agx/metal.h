// Lets a kernel's Metal text compile as C++ for OpenCL: the names of Metal with the meaning of
// OpenCL. Mesa's native_divide is as slow as `/`, its native_recip is nearest to fast::divide.
#pragma once

#define __METAL_VERSION__ 310
#define threadgroup __local
#define device __global
#define constant __constant

struct mem_flags {
  enum { mem_none, mem_threadgroup, mem_device };
};
#define threadgroup_barrier(flags) barrier(CLK_LOCAL_MEM_FENCE)
#ifndef POCL
#define SIMD_MEMORY
#define SIMD_LANE get_sub_group_local_id()
#define simdgroup_barrier(flags) sub_group_barrier(CLK_LOCAL_MEM_FENCE)
#define simd_shuffle_xor(value, mask) sub_group_shuffle_xor(value, (uint)(mask))
#define simd_sum(value) sub_group_reduce_add(value)
#else
// PoCL 7.1 asks its library for "_cl_sub_group_..." where a kernel comes as SPIR-V, and the library
// has these functions without the prefix: lanes meet in local memory instead. Every thread of a
// threadgroup must come by.
#define SIMD_MEMORY __local float simd_memory[1024];
#define SIMD_LANE (get_local_id(0) % 32u)
#define simdgroup_barrier(flags) barrier(CLK_LOCAL_MEM_FENCE)
#define simd_shuffle_xor(value, mask) ncps_exchange(simd_memory, value, (uint)(mask))
#define simd_sum(value) ncps_sum(simd_memory, value)
inline float ncps_exchange(__local float* memory, float value, uint mask) {
  const uint row = get_local_id(1) + get_local_size(1) * get_local_id(2);
  const uint at = get_local_id(0) + get_local_size(0) * row;
  barrier(CLK_LOCAL_MEM_FENCE);
  memory[at] = value;
  barrier(CLK_LOCAL_MEM_FENCE);
  return memory[at ^ mask];
}
inline float ncps_sum(__local float* memory, float value) {
  for (uint mask = 16; mask > 0; mask /= 2) value += ncps_exchange(memory, value, mask);
  return value;
}
#endif

namespace metal {
inline float fabs(float z) { return ::fabs(z); }
inline float copysign(float z, float sign) { return ::copysign(z, sign); }
namespace fast {
inline float divide(float a, float b) { return a * native_recip(b); }
}  // namespace fast
namespace precise {
inline float exp2(float z) { return native_exp2(z); }
inline float tanh(float z) { return ::tanh(z); }
inline float log(float z) { return native_log2(z) * 0.69314718f; }
inline float sqrt(float z) { return ::sqrt(z); }
}  // namespace precise
}  // namespace metal
