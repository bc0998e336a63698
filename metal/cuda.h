// Lets a kernel body of this folder compile as CUDA: the names of Metal with the meaning of CUDA.
// SIMD groups and warps are both 32 wide. Stands before every other header in the CUDA text.
#pragma once

using uint = unsigned int;
using ushort = unsigned short;

#define inline __device__ __forceinline__
#define threadgroup __shared__
#define thread_position_in_threadgroup threadIdx
#define threadgroup_position_in_grid blockIdx
#define threads_per_threadgroup blockDim
#define thread_position_in_grid ncps_thread_position_in_grid()
#define thread_index_in_simdgroup ncps_thread_index_in_simdgroup()

enum class mem_flags { mem_none, mem_threadgroup, mem_device };

inline uint3 ncps_thread_position_in_grid() {
  return uint3{blockIdx.x * blockDim.x + threadIdx.x, blockIdx.y * blockDim.y + threadIdx.y,
               blockIdx.z * blockDim.z + threadIdx.z};
}
inline uint ncps_thread_index_in_simdgroup() {
  return (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32u;
}
inline void threadgroup_barrier(mem_flags) { __syncthreads(); }
inline void simdgroup_barrier(mem_flags) { __syncwarp(); }
inline float simd_shuffle_xor(float v, ushort mask) {
  return __shfl_xor_sync(0xffffffffu, v, mask);
}
inline float simd_sum(float v) {
  for (ushort mask = 16; mask > 0; mask /= 2) v += simd_shuffle_xor(v, mask);
  return v;
}
