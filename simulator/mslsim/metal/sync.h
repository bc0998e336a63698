// Barriers, memory flags and memory orders.
#pragma once

namespace metal {

enum class mem_flags : uint {
  mem_none = 0,
  mem_device = 1,
  mem_threadgroup = 2,
  mem_texture = 4,
  mem_threadgroup_imageblock = 8,
  mem_object_data = 16,
};
MSL_INLINE constexpr mem_flags operator|(mem_flags a, mem_flags b) {
  return (mem_flags)((uint)a | (uint)b);
}
MSL_INLINE constexpr mem_flags operator&(mem_flags a, mem_flags b) {
  return (mem_flags)((uint)a & (uint)b);
}

enum memory_order {
  memory_order_relaxed = 0,
#if __METAL_VERSION__ >= 320
  memory_order_acquire = 2,
  memory_order_release = 3,
  memory_order_acq_rel = 4,
  memory_order_seq_cst = 5,
#endif
};
enum thread_scope {
  thread_scope_thread,
  thread_scope_simdgroup,
  thread_scope_threadgroup,
  thread_scope_device,
};

MSL_INLINE void threadgroup_barrier(mem_flags flags, uint site = MSL_SITE) {
  __msl_tg_barrier((uint)flags, site);
}
MSL_INLINE void simdgroup_barrier(mem_flags flags, uint site = MSL_SITE) {
  __msl_simd_barrier((uint)flags, site);
}
#if __METAL_VERSION__ >= 320
MSL_INLINE void atomic_thread_fence(mem_flags flags, memory_order order,
                                    thread_scope scope = thread_scope_device) {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
#endif

}  // namespace metal
