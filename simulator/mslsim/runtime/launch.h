// What Python hands to one dispatch and reads back from it; launch.py mirrors the layout.
#pragma once
#include <cstdint>

namespace mslsim {

using u8 = std::uint8_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;

constexpr u32 kBuffers = 31;  // Metal's buffer slots
constexpr u32 kSimdWidth = 32;
constexpr u32 kThreadgroupBytes = 32768;

enum Order : u32 { kForward, kReverse, kRandom, kChaos };
enum BufferFlags : u32 { kIsOutput = 1, kIsInitialised = 2, kIsConstant = 4 };
enum Stat { kThreadgroupMemory, kSwitches, kBarriers, kSimdOps, kStrideLog2, kStats };

struct Launch {
  void (*entry)(u64 buffers, u64 blocks, u64 builtins);
  u64 object_base;  // load address of the kernel's object: reports give offsets from it
  u32 grid[3], threadgroup[3];
  u32 buffers, checked, seed, order, threads, flush_subnormals, ulp;
  u32 stride_log2;  // of the address reservation, 0 = the largest that the system grants
  u64* address;     // [buffers] of the host arrays
  u64* size;        // [buffers] in bytes
  u32* item_size;   // [buffers]
  u32* flags;       // [buffers]
  const char** name;
  u32 block_size[kBuffers];  // threadgroup memory bound by the host, in bytes
  char* report;              // one finding a line: kind, address, address, text; tabs between
  u64 report_capacity;
  u64 stats[kStats];
};

}  // namespace mslsim
