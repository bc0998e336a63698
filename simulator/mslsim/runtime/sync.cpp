// What kernels call: barriers, SIMD-group exchange, threadgroup variables, noise.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "state.h"

namespace mslsim {
namespace {

void wait_at(FiberState state, u32 flags, u32 site, u64 pc) {
  Fiber* self = worker->current;
  self->state = state;
  self->flags = flags;
  self->site = site;
  self->pc = pc;
  yield_fiber();
}

// The lane of this SIMD group, or null when it takes no part in the exchange.
const Fiber* partner(u32 lane) {
  const Fiber* self = worker->current;
  const u32 id = (self->local_id & ~(kSimdWidth - 1)) + (lane & (kSimdWidth - 1));
  if (lane < kSimdWidth && id < worker->threads && ((self->mask >> lane) & 1)) {
    return &worker->fibers[id];
  }
  report("simd-inactive", self->pc, 0, "read of inactive lane %u by %s: the value is undefined",
         lane, thread_name(this_thread()).c_str());
  return nullptr;
}

}  // namespace

u64 allocate_block(u32 id, u64 size, u32 align, u64 pc) {
  const auto found = worker->block_regions.find(id);
  if (found != worker->block_regions.end()) return dispatch->regions[found->second].base;
  const u64 alignment = std::max<u64>(align, 16);
  worker->block_bytes = (worker->block_bytes + alignment - 1) / alignment * alignment + size;
  dispatch->block_bytes = std::max(dispatch->block_bytes, worker->block_bytes);
  const u64 count = worker->block_regions.size();
  if (worker->block_bytes > kThreadgroupBytes || count == worker->own_regions.size()) {
    report("limit", pc, 0,
           "threadgroup memory: %llu bytes in %llu variables, the limit is %u bytes",
           static_cast<unsigned long long>(worker->block_bytes),
           static_cast<unsigned long long>(count + 1), kThreadgroupBytes);
    abandon_fiber();
  }
  const u32 index = worker->own_regions[count];
  worker->block_regions[id] = index;
  Region& region = dispatch->regions[index];
  const u32 granule = std::clamp<u32>(align, 1, 4);
  const bool checked = dispatch->launch->checked;
  if (region.kind == RegionKind::kNone || region.size != size || region.granule != granule) {
    free_region(region);
    allocate_region(index, size, granule, checked, checked);
    region.kind = RegionKind::kThreadgroup;
    region.name = "#" + std::to_string(id);
  }
  std::memset(reinterpret_cast<void*>(region.base), 0xFF, size);  // NaN
  if (region.cells) {
    std::memset(static_cast<void*>(region.cells), 0, region.cell_count * sizeof(Cell));
  }
  return region.base;
}

}  // namespace mslsim

using namespace mslsim;

MSLSIM_EXPORT u64 __msl_tg_alloc(u32 id, u64 size, u32 align) {
  return allocate_block(id, size, align, CALLER);
}

MSLSIM_EXPORT void __msl_tg_barrier(u32 flags, u32 site) {
  wait_at(FiberState::kAtBarrier, flags, site, CALLER);
}

MSLSIM_EXPORT u32 __msl_simd_put(u64 lo, u64 hi, u32 site) {
  Fiber* self = worker->current;
  self->parity ^= 1;
  self->lo[self->parity] = lo;
  self->hi[self->parity] = hi;
  wait_at(FiberState::kAtSimd, 0, site, CALLER);
  return self->mask;
}

MSLSIM_EXPORT void __msl_matrix_put(u64 lo, u64 hi, u32 site) {
  Fiber* self = worker->current;
  self->parity ^= 1;
  self->lo[self->parity] = lo;
  self->hi[self->parity] = hi;
  wait_at(FiberState::kAtSimd, kAllLanes, site, CALLER);
}

// What is added to a lane's number to get its place in a matrix, by exclusive or: a kernel that
// counts on places differs from order to order.
MSLSIM_EXPORT u32 __msl_matrix_layout() {
  const Launch& launch = *dispatch->launch;
  if (launch.order == kForward) return 0;
  return launch.order == kReverse ? kSimdWidth - 1 : 1 + launch.seed % (kSimdWidth - 1);
}

MSLSIM_EXPORT void __msl_matrix_unset() {
  report("uninit", CALLER, 0, "read of an uninitialised simdgroup_matrix by %s",
         thread_name(this_thread()).c_str());
}

MSLSIM_EXPORT void __msl_simd_barrier(u32 flags, u32 site) {
  worker->current->parity ^= 1;
  wait_at(FiberState::kAtSimd, flags | kSimdBarrier, site, CALLER);
}

MSLSIM_EXPORT u64 __msl_simd_lo(u32 lane) {
  const Fiber* other = partner(lane);
  return other ? other->lo[worker->current->parity] : ~u64{0};
}
MSLSIM_EXPORT u64 __msl_simd_hi(u32 lane) {
  const Fiber* other = partner(lane);
  return other ? other->hi[worker->current->parity] : ~u64{0};
}

MSLSIM_EXPORT u32 __msl_lane() { return worker->current->local_id % kSimdWidth; }

MSLSIM_EXPORT u32 __msl_simd_width() {
  const u32 first = worker->current->local_id & ~(kSimdWidth - 1);
  return std::min(kSimdWidth, worker->threads - first);
}

// Moves a result by up to `ulp` units in the last place, by one at most in metal::precise.
MSLSIM_EXPORT float __msl_ulp(float x, int mode) {
  constexpr int kPrecise = 2;
  u32 most = dispatch->launch->ulp;
  if (most == 0 || !std::isfinite(x) || x == 0) return x;
  if (mode == kPrecise) most = 1;
  const int step = static_cast<int>((next_random(worker->random) >> 8) % (2 * most + 1));
  u32 bits;
  std::memcpy(&bits, &x, sizeof bits);
  bits += static_cast<u32>(step - static_cast<int>(most));
  std::memcpy(&x, &bits, sizeof bits);
  return x;
}
