// The memory model: judges every load and store of a checked run.
//
// Kernels are compiled with -fsanitize=thread, whose callbacks are defined here. An access must lie
// inside its region; a read must follow a write; and an access that conflicts with another thread's
// must be ordered after it: by a threadgroup barrier whose flags name the memory, by a
// simdgroup_barrier within one SIMD group, never between threadgroups.
#include <cstring>

#include "state.h"

namespace mslsim {
namespace {

u32 group_of(u32 thread) { return (thread - 1) / dispatch->group_size; }
u32 simdgroup_of(u32 thread) { return (thread - 1) % dispatch->group_size / kSimdWidth; }
u32 this_simdgroup() { return worker->current->local_id / kSimdWidth; }

// Whether an access of `thread` at `event` comes before now for the thread that runs.
bool happened_before(u32 thread, u32 event, int memory, bool by_simd_barrier = true) {
  if (group_of(thread) != worker->threadgroup) return false;
  if (event < worker->ordered[memory]) return true;
  return by_simd_barrier && simdgroup_of(thread) == this_simdgroup() &&
         event < worker->simd_ordered[this_simdgroup() * 2 + memory];
}

// Reads by one SIMD group may be ordered by its own barrier; wider ones need the threadgroup's.
bool reads_happened_before(const Cell& cell, int memory) {
  return cell.spread != kThreadgroups &&
         happened_before(cell.reader, cell.read_event, memory, cell.spread < kOneThreadgroup);
}

void report_race(const Region& region, u64 cell, const char* what, u32 other, u32 other_pc, u64 pc,
                 bool several_groups = false) {
  const bool in_group = region.kind == RegionKind::kThreadgroup;
  const bool same_group = !several_groups && group_of(other) == worker->threadgroup;
  const char* why = !same_group ? "different threadgroups are never ordered within a dispatch"
                    : in_group  ? "no barrier with mem_threadgroup between them"
                                : "no barrier with mem_device between them";
  report("race", pc, dispatch->launch->object_base + other_pc,
         "%s race on %s '%s' element %llu: %s and %s, %s", what,
         in_group ? "threadgroup" : "device", region.name.c_str(),
         static_cast<unsigned long long>(cell), thread_name(this_thread()).c_str(),
         thread_name(other).c_str(), why);
}

void check_against_writer(const Region& region, const Cell& cell, u64 index, bool write,
                          bool atomic, u64 pc) {
  const u32 me = this_thread();
  const int memory = region.kind == RegionKind::kThreadgroup;
  if (cell.writer == 0 || cell.writer == me || (atomic && cell.write_is_atomic)) return;
  if (happened_before(cell.writer, cell.write_event, memory)) return;
  report_race(region, index, write ? "write/write" : "read/write", cell.writer, cell.write_pc, pc);
}

void note_write(const Region& region, Cell& cell, u64 index, bool atomic, u64 pc) {
  const u32 me = this_thread();
  const int memory = region.kind == RegionKind::kThreadgroup;
  const bool only_mine = cell.reader == me && cell.spread == kOneThread;
  if (cell.reader != 0 && !only_mine && !(atomic && cell.read_is_atomic) &&
      !reads_happened_before(cell, memory)) {
    const bool last_is_me = cell.reader == me;
    report_race(region, index, "write/read", last_is_me ? cell.earlier_reader : cell.reader,
                last_is_me ? cell.earlier_pc : cell.read_pc, pc, cell.spread == kThreadgroups);
  }
  cell.writer = me;
  cell.write_event = worker->event;
  cell.write_pc = static_cast<u32>(pc - dispatch->launch->object_base);
  cell.write_is_atomic = atomic;
  cell.initialised = true;
  cell.reader = 0;
  cell.spread = kOneThread;
}

void note_read(const Region& region, Cell& cell, u64 index, bool atomic, u64 pc) {
  const u32 me = this_thread();
  const int memory = region.kind == RegionKind::kThreadgroup;
  if (!cell.initialised && !region.initialised) {
    report("uninit", pc, 0, "read of uninitialised %s '%s' element %llu by %s",
           memory ? "threadgroup memory" : "output buffer", region.name.c_str(),
           static_cast<unsigned long long>(index), thread_name(me).c_str());
  }
  const bool first = cell.reader == 0 || reads_happened_before(cell, memory);
  if (first) {
    cell.spread = kOneThread;
  } else if (cell.reader != me) {
    const bool same_group = group_of(cell.reader) == worker->threadgroup;
    const bool same_simdgroup = same_group && simdgroup_of(cell.reader) == this_simdgroup();
    const Spread spread = !same_group       ? kThreadgroups
                          : !same_simdgroup ? kOneThreadgroup
                                            : kOneSimdgroup;
    if (spread > cell.spread) cell.spread = spread;
    cell.earlier_reader = cell.reader;
    cell.earlier_pc = cell.read_pc;
  }
  cell.read_is_atomic = atomic && (first || cell.read_is_atomic);
  cell.reader = me;
  cell.read_event = worker->event;
  cell.read_pc = static_cast<u32>(pc - dispatch->launch->object_base);
}

[[noreturn]] void out_of_bounds(const Region& region, u64 offset, u32 size, bool write, u64 pc) {
  const long long element = static_cast<long long>(offset) / static_cast<long long>(region.granule);
  report(
      "oob", pc, 0,
      "%s %s '%s' out of bounds: byte offset %lld (+%u), size %llu bytes; element %lld of %llu; %s",
      write ? "write to" : "read of",
      region.kind == RegionKind::kThreadgroup ? "threadgroup variable" : "buffer",
      region.name.c_str(), static_cast<long long>(offset), size,
      static_cast<unsigned long long>(region.size), element,
      static_cast<unsigned long long>(region.size / region.granule),
      thread_name(this_thread()).c_str());
  abandon_fiber();
}

// The running thread's own stack, or a table of constants.
bool is_private(u64 address) {
  const u64 stack = reinterpret_cast<u64>(worker->current->stack);
  return address - stack < kStackBytes ||
         address - dispatch->launch->object_base < dispatch->object_bytes;
}

// Only a reservation that had to be small lets an index of 32 bits get this far.
[[noreturn]] void nowhere(u64 address, u32 size, bool write, u64 pc) {
  report("oob", pc, 0, "%s %u bytes outside of any buffer, at 0x%llx; %s",
         write ? "write of" : "read of", size, static_cast<unsigned long long>(address),
         thread_name(this_thread()).c_str());
  abandon_fiber();
}

// The order "chaos": other threads may run before any single access.
void maybe_preempt() {
  if ((next_random(worker->random) & 7) != 0) return;
  worker->current->state = FiberState::kReady;
  yield_fiber();
}

inline __attribute__((always_inline)) void access(u64 address, u32 size, bool write, u64 pc,
                                                  bool atomic = false) {
  if (!worker || !worker->current) return;
  const u64 from_base = address - reserved_base;
  if (from_base >= reserved_bytes()) {
    if (!is_private(address)) nowhere(address, size, write, pc);
    return;
  }
  if (dispatch->launch->order == kChaos && !atomic) maybe_preempt();
  Region& region = dispatch->regions[from_base >> stride_log2];
  const u64 offset = (from_base & ((u64{1} << stride_log2) - 1)) - half_stride();
  if (region.kind == RegionKind::kNone || offset >= region.size || offset + size > region.size) {
    out_of_bounds(region, offset, size, write, pc);
  }
  if (!region.cells) {
    if (!write) return;
    report("read-only", pc, 0, "write to read-only buffer '%s'", region.name.c_str());
    abandon_fiber();
  }
  const u64 last = (offset + size - 1) / region.granule;
  for (u64 i = offset / region.granule; i <= last; i++) {
    Cell& cell = region.cells[i];
    check_against_writer(region, cell, i, write, atomic, pc);
    if (write) {
      note_write(region, cell, i, atomic, pc);
    } else {
      note_read(region, cell, i, atomic, pc);
    }
  }
}

void access_range(u64 address, u64 size, bool write, u64 pc) {
  while (size > 0) {
    const u32 part = size > 16 ? 16 : static_cast<u32>(size);
    access(address, part, write, pc);
    address += part;
    size -= part;
  }
}

}  // namespace
}  // namespace mslsim

using namespace mslsim;

#define CALLBACKS(n)                                                                         \
  MSLSIM_EXPORT void __tsan_read##n(void* p) { access((u64)p, n, false, CALLER); }           \
  MSLSIM_EXPORT void __tsan_write##n(void* p) { access((u64)p, n, true, CALLER); }           \
  MSLSIM_EXPORT void __tsan_unaligned_read##n(void* p) { access((u64)p, n, false, CALLER); } \
  MSLSIM_EXPORT void __tsan_unaligned_write##n(void* p) { access((u64)p, n, true, CALLER); } \
  MSLSIM_EXPORT void __tsan_read_write##n(void* p) {                                         \
    access((u64)p, n, false, CALLER);                                                        \
    access((u64)p, n, true, CALLER);                                                         \
  }                                                                                          \
  MSLSIM_EXPORT void __tsan_unaligned_read_write##n(void* p) {                               \
    access((u64)p, n, false, CALLER);                                                        \
    access((u64)p, n, true, CALLER);                                                         \
  }
CALLBACKS(1)
CALLBACKS(2)
CALLBACKS(4)
CALLBACKS(8)
CALLBACKS(16)

MSLSIM_EXPORT void __tsan_init() {}
MSLSIM_EXPORT void __tsan_func_entry(void*) {}
MSLSIM_EXPORT void __tsan_func_exit() {}
MSLSIM_EXPORT void __tsan_vptr_read(void*) {}
MSLSIM_EXPORT void __tsan_vptr_update(void*, void*) {}

MSLSIM_EXPORT void* __tsan_memcpy(void* to, const void* from, size_t size) {
  access_range((u64)from, size, false, CALLER);
  access_range((u64)to, size, true, CALLER);
  return std::memcpy(to, from, size);
}
MSLSIM_EXPORT void* __tsan_memmove(void* to, const void* from, size_t size) {
  access_range((u64)from, size, false, CALLER);
  access_range((u64)to, size, true, CALLER);
  return std::memmove(to, from, size);
}
MSLSIM_EXPORT void* __tsan_memset(void* to, int value, size_t size) {
  access_range((u64)to, size, true, CALLER);
  return std::memset(to, value, size);
}

MSLSIM_EXPORT void __msl_atomic(u64 address, u32 size, u32 kind) {
  if (!dispatch->launch->checked) return;
  if (kind != 2) access(address, size, false, CALLER, true);
  if (kind != 0) access(address, size, true, CALLER, true);
}
