// State of a dispatch, shared by the files of the runtime.
#pragma once
#include <atomic>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "launch.h"

#define MSLSIM_EXPORT extern "C" __attribute__((visibility("default")))
#define CALLER ((u64)__builtin_return_address(0))

namespace mslsim {

// Every buffer and every threadgroup variable is a region in the middle of its own large stretch
// of reserved addresses, so that an access which misses it still tells which region it aimed at.
constexpr u32 kRegions = 96;
constexpr u32 kFirstThreadgroupRegion = 48;

enum class RegionKind : u8 { kNone, kInput, kConstant, kOutput, kThreadgroup };

// How far apart the readers of a cell since its last write are.
enum Spread : u8 { kOneThread, kOneSimdgroup, kOneThreadgroup, kThreadgroups };

// The last write and the last read of up to 4 bytes of a writable region. Threads are numbered
// from 1 over the whole grid; events count barriers; pc is an offset into the kernel's object.
struct Cell {
  u32 writer, write_event, write_pc;
  u32 reader, read_event, read_pc;
  u32 earlier_reader, earlier_pc;  // another thread that read, when several did
  bool write_is_atomic, read_is_atomic, initialised;
  u8 spread;
};

struct Region {
  RegionKind kind = RegionKind::kNone;
  bool initialised = false;
  u32 granule = 4;  // bytes of a cell
  u64 base = 0, size = 0;
  Cell* cells = nullptr;
  u64 cell_count = 0;
  std::string name;
};

// Flags of what a lane waits at, beside those of memory.
constexpr u32 kSimdBarrier = 256;  // simdgroup_barrier
constexpr u32 kAllLanes = 512;     // of a matrix: there must be 32 lanes

enum class FiberState : u8 { kReady, kAtSimd, kAtBarrier, kDone };

// One thread of the grid.
struct Fiber {
  void* stack_pointer;
  char* stack;
  FiberState state;
  u32 local_id;
  u32 site, flags;  // of what it waits at
  u64 pc;
  u32 parity, mask;  // which exchange value is current, who took part in the exchange
  u64 lo[2], hi[2];  // exchange values: the last one stays readable while the next is left
  u32 builtins[64];  // 3 words for each name in words.BUILTINS
};

// One host thread, running one threadgroup at a time.
struct Worker {
  void* scheduler;
  Fiber* current = nullptr;
  std::vector<Fiber> fibers;
  u32 threads = 0;      // of the threadgroup that runs
  u64 threadgroup = 0;  // its index
  u32 event = 1;        // grows at every barrier; never reset, so old cells stay old
  u32 ordered[2];       // event of the last threadgroup barrier for device / threadgroup memory
  std::vector<u32> simd_ordered;  // the same for each SIMD group, two entries each
  u32 random;
  std::map<u32, u32> block_regions;  // threadgroup variable -> region
  std::vector<u32> own_regions;      // regions for threadgroup variables
  u64 block_bytes = 0;
  u64 buffer_addresses[kBuffers], block_addresses[kBuffers];
  bool catches_crashes = false;
};

struct Dispatch {
  Launch* launch;
  std::vector<Region> regions = std::vector<Region>(kRegions);
  u64 groups[3];
  u32 group_size;        // threads of a full threadgroup
  u64 object_bytes = 0;  // of the kernel's object in memory, with its tables of constants
  std::atomic<u64> next_group{0};
  std::atomic<bool> stop{false};
  std::atomic<u64> switches{0}, barriers{0}, simd_ops{0};
  u64 block_bytes = 0;
  std::mutex report_lock;
  std::map<std::string, int> reported;
  std::string report;
};

extern Dispatch* dispatch;
extern thread_local Worker* worker __attribute__((tls_model("initial-exec")));

// reports.cpp
void report(const char* kind, u64 pc, u64 other_pc, const char* format, ...)
    __attribute__((format(printf, 4, 5)));
std::string thread_name(u32 thread);
u32 this_thread();

// fiber.cpp
void prepare_fiber(Fiber& fiber);
constexpr u64 kStackBytes = 256 * 1024;
char* new_stack();
void free_stack(char* stack);
void run_fiber(Fiber& fiber);
void yield_fiber();
[[noreturn]] void abandon_fiber();  // after a finding that makes going on pointless

// regions.cpp
extern u64 reserved_base;
extern u32 stride_log2;
bool reserve_addresses(u32 wanted_log2);
inline u64 half_stride() { return u64{1} << (stride_log2 - 1); }
inline u64 reserved_bytes() { return u64{kRegions} << stride_log2; }
void allocate_region(u32 index, u64 size, u32 granule, bool checked, bool shadow);
void free_region(Region& region);

// schedule.cpp
u32 next_random(u32& state);
void run_threadgroup(u64 index);

// sync.cpp
u64 allocate_block(u32 id, u64 size, u32 align, u64 pc);

}  // namespace mslsim
