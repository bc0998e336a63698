// Runs one threadgroup: takes its threads in the order asked for, and releases those that wait.
#include <algorithm>
#include <cstring>

#include "state.h"

namespace mslsim {
namespace {

struct Extent {
  u32 size[3];      // of this threadgroup: smaller at the edges of the grid
  u32 position[3];  // of this threadgroup
  u32 threads;
};

Extent extent_of(u64 group) {
  const Launch& launch = *dispatch->launch;
  const u64* n = dispatch->groups;
  Extent e{{},
           {static_cast<u32>(group % n[0]), static_cast<u32>(group / n[0] % n[1]),
            static_cast<u32>(group / n[0] / n[1])},
           1};
  for (int k = 0; k < 3; k++) {
    const u32 first = e.position[k] * launch.threadgroup[k];
    e.size[k] = std::min(launch.threadgroup[k], launch.grid[k] - first);
    e.threads *= e.size[k];
  }
  return e;
}

// Built-in values, in the order of words.BUILTINS.
void fill_builtins(Fiber& fiber, const Extent& e) {
  const Launch& launch = *dispatch->launch;
  const u32 i = fiber.local_id, n = e.threads, full = dispatch->group_size;
  const u32 place[3] = {i % e.size[0], i / e.size[0] % e.size[1], i / e.size[0] / e.size[1]};
  u32* b = fiber.builtins;
  std::memset(b, 0, sizeof fiber.builtins);
  for (int k = 0; k < 3; k++) {
    b[k] = e.position[k] * launch.threadgroup[k] + place[k];
    b[3 + k] = place[k];
    b[6 + k] = e.position[k];
    b[9 + k] = launch.grid[k];
    b[12 + k] = e.size[k];
    b[15 + k] = launch.threadgroup[k];
    b[18 + k] = static_cast<u32>(dispatch->groups[k]);
    b[21 + k] = launch.grid[k];  // and the grid's origin is 0
  }
  const u32 scalars[] = {
      i,          i % kSimdWidth, i / kSimdWidth, (n + 31) / 32, (full + 31) / 32, kSimdWidth,
      kSimdWidth, i % 4,          i / 4,          (n + 3) / 4,   (full + 3) / 4};
  for (u32 k = 0; k < std::size(scalars); k++) b[27 + 3 * k] = scalars[k];
}

void start(u64 group, const Extent& e) {
  Worker& w = *worker;
  w.threads = e.threads;
  w.threadgroup = group;
  w.block_regions.clear();
  w.block_bytes = 0;
  w.ordered[0] = w.ordered[1] = ++w.event;
  w.simd_ordered.assign((e.threads + kSimdWidth - 1) / kSimdWidth * 2, w.event);
  for (u32 i = 0; i < kBuffers; i++) {
    const u32 size = dispatch->launch->block_size[i];
    if (size) w.block_addresses[i] = allocate_block(1000 + i, size, 4, 0);
  }
  while (w.fibers.size() < e.threads) {
    w.fibers.emplace_back();
    w.fibers.back().stack = new_stack();
  }
  for (u32 i = 0; i < e.threads; i++) {
    Fiber& fiber = w.fibers[i];
    fiber.state = FiberState::kReady;
    fiber.local_id = i;
    fiber.parity = fiber.mask = 0;
    fill_builtins(fiber, e);
    prepare_fiber(fiber);
  }
}

// The order of the threads of a threadgroup, and in "chaos" which SIMD groups stand still.
class Turns {
 public:
  explicit Turns(u32 n) : order_(n) {
    for (u32 i = 0; i < n; i++) order_[i] = i;
    if (dispatch->launch->order == kReverse) std::reverse(order_.begin(), order_.end());
  }
  const std::vector<u32>& next() {
    u32& random = worker->random;
    if (dispatch->launch->order >= kRandom) {
      for (u32 i = order_.size(); i > 1; i--) {
        std::swap(order_[i - 1], order_[next_random(random) % i]);
      }
    }
    // Most stand still; every 64th round all move, so that nobody starves.
    const bool unfair = dispatch->launch->order == kChaos && ++round_ % 64 != 0;
    moving_ = unfair ? next_random(random) & next_random(random) : ~0u;
    return order_;
  }
  bool moves(const Fiber& f) const { return (moving_ >> (f.local_id / kSimdWidth % 32)) & 1; }

 private:
  std::vector<u32> order_;
  u32 round_ = 0, moving_ = ~0u;
};

// Lets every thread that is ready run to its next barrier; true when some could go on at once.
bool run_ready(Turns& turns) {
  bool again = false;
  for (u32 id : turns.next()) {
    Fiber& fiber = worker->fibers[id];
    if (fiber.state != FiberState::kReady) continue;
    if (!turns.moves(fiber)) {
      again = true;
      continue;
    }
    dispatch->switches++;
    run_fiber(fiber);
    if (dispatch->stop) return false;
    again = again || fiber.state == FiberState::kReady;
  }
  return again;
}

// Releases the lanes of one SIMD group that wait at the same place, once none of its lanes can
// still get there; true when there were any.
bool release_simdgroup(u32 group) {
  Worker& w = *worker;
  const u32 first = group * kSimdWidth, lanes = std::min(kSimdWidth, w.threads - first);
  u32 alive = 0, site = ~0u;
  for (u32 i = 0; i < lanes; i++) {
    const Fiber& f = w.fibers[first + i];
    if (f.state == FiberState::kReady) return false;
    if (f.state != FiberState::kDone) alive |= 1u << i;
    if (f.state == FiberState::kAtSimd) site = std::min(site, f.site);
  }
  if (site == ~0u) return false;
  u32 here = 0;
  const Fiber* one = nullptr;
  for (u32 i = 0; i < lanes; i++) {
    const Fiber& f = w.fibers[first + i];
    if (f.state != FiberState::kAtSimd || f.site != site) continue;
    here |= 1u << i;
    one = &f;
  }
  const bool is_barrier = one->flags & kSimdBarrier, whole = one->flags & kAllLanes;
  const u32 all = whole || lanes == kSimdWidth ? ~0u : (1u << lanes) - 1;
  if (here != alive || alive != all) {
    report("simd-divergent", one->pc, 0, "%s reached by lanes 0x%08x of 0x%08x (SIMD group %u, %s)",
           is_barrier ? "simdgroup_barrier"
           : whole    ? "matrix function"
                      : "SIMD-group function",
           here, all, group,
           thread_name(static_cast<u32>(w.threadgroup * dispatch->group_size + one->local_id + 1))
               .c_str());
  }
  if (is_barrier) {
    ++w.event;
    for (int memory : {0, 1}) {
      if ((one->flags >> memory) & 1) w.simd_ordered[group * 2 + memory] = w.event;
    }
  }
  for (u32 i = 0; i < lanes; i++) {
    if (!((here >> i) & 1)) continue;
    w.fibers[first + i].mask = here;
    w.fibers[first + i].state = FiberState::kReady;
  }
  dispatch->simd_ops++;
  return true;
}

// Releases all threads from the threadgroup barrier; false when none is left or they diverge.
bool release_barrier() {
  Worker& w = *worker;
  const Fiber *first = nullptr, *other = nullptr;
  u32 waiting = 0;
  for (u32 i = 0; i < w.threads; i++) {
    const Fiber& f = w.fibers[i];
    if (f.state == FiberState::kDone) continue;
    waiting++;
    if (!first) first = &f;
    if (f.site != first->site || f.flags != first->flags) other = &f;
  }
  if (!first) return false;
  const auto group = static_cast<unsigned long long>(w.threadgroup);
  if (waiting < w.threads) {
    report("barrier", first->pc, 0,
           "divergent threadgroup_barrier: %u of %u threads wait, the others have returned "
           "(threadgroup %llu)",
           waiting, w.threads, group);
  } else if (other) {
    report("barrier", first->pc, other->pc,
           "divergent threadgroup_barrier: thread %u and thread %u wait at different ones "
           "(threadgroup %llu)",
           first->local_id, other->local_id, group);
  }
  if (waiting < w.threads || other) {
    dispatch->stop = true;
    return false;
  }
  ++w.event;
  for (int memory : {0, 1}) {
    if ((first->flags >> memory) & 1) w.ordered[memory] = w.event;
  }
  for (u32 i = 0; i < w.threads; i++) w.fibers[i].state = FiberState::kReady;
  dispatch->barriers++;
  return true;
}

}  // namespace

u32 next_random(u32& state) {
  state ^= state << 13;
  state ^= state >> 17;
  state ^= state << 5;
  return state;
}

void run_threadgroup(u64 index) {
  const Extent extent = extent_of(index);
  start(index, extent);
  Turns turns(extent.threads);
  for (;;) {
    const bool again = run_ready(turns);
    if (dispatch->stop) return;
    bool released = false;
    for (u32 s = 0; s * kSimdWidth < extent.threads; s++) released |= release_simdgroup(s);
    if (!released && !again && !release_barrier()) return;
  }
}

}  // namespace mslsim
