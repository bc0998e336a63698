// Memory of buffers and threadgroup variables, each in its own stretch of reserved addresses.
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "state.h"

namespace mslsim {

u64 reserved_base = 0;
u32 stride_log2 = 0;

namespace {

constexpr u64 kPage = 4096;
constexpr int kAnonymous = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

u64 page_floor(u64 a) { return a & ~(kPage - 1); }
u64 page_ceil(u64 a) { return page_floor(a + kPage - 1); }

bool try_reserve(u32 log2) {
  void* p = mmap(nullptr, u64{kRegions} << log2, PROT_NONE, kAnonymous, -1, 0);
  if (p == MAP_FAILED) return false;
  reserved_base = reinterpret_cast<u64>(p);
  stride_log2 = log2;
  return true;
}

}  // namespace

// Does nothing while the reservation is what is wanted. 6 TiB of addresses cost nothing, yet a
// container or a limit on virtual memory may refuse them: then less, down to 6 GiB. A stretch
// bounds the size of a buffer and how far a stray access may miss and still be named.
bool reserve_addresses(u32 wanted_log2) {
  static u32 last_wanted = 0;
  if (stride_log2 != 0 && wanted_log2 == last_wanted) return true;
  if (stride_log2 != 0) munmap(reinterpret_cast<void*>(reserved_base), reserved_bytes());
  stride_log2 = 0;
  last_wanted = wanted_log2;
  if (wanted_log2 != 0) return try_reserve(wanted_log2);
  for (u32 log2 : {36u, 34u, 32u, 30u, 28u, 26u}) {
    if (try_reserve(log2)) return true;
  }
  return false;
}

// The memory of region `index`. A checked run sees every access; a fast one only has the guard page
// that the end of the buffer is put against.
void allocate_region(u32 index, u64 size, u32 granule, bool checked, bool shadow) {
  Region& region = dispatch->regions[index];
  const u64 middle = reserved_base + (u64{index} << stride_log2) + half_stride();
  region.base = checked ? middle : middle - (size + 15) / 16 * 16;
  region.size = size;
  region.granule = granule;
  const u64 low = page_floor(region.base);
  const u64 high = checked ? page_ceil(region.base + size + 16) : middle;
  if (high > low && mprotect(reinterpret_cast<void*>(low), high - low, PROT_READ | PROT_WRITE)) {
    std::perror("mslsim: mprotect");
    std::abort();
  }
  if (shadow) {
    region.cell_count = size / granule + 1;
    region.cells = static_cast<Cell*>(
        mmap(nullptr, region.cell_count * sizeof(Cell), PROT_READ | PROT_WRITE, kAnonymous, -1, 0));
    if (region.cells == MAP_FAILED) {
      std::perror("mslsim: mmap");
      std::abort();
    }
  }
}

void free_region(Region& region) {
  if (region.cells) munmap(region.cells, region.cell_count * sizeof(Cell));
  if (region.kind != RegionKind::kNone) {
    const u64 low = page_floor(region.base), high = page_ceil(region.base + region.size + 16);
    mmap(reinterpret_cast<void*>(low), high - low, PROT_NONE, kAnonymous | MAP_FIXED, -1, 0);
  }
  region = Region{};
}

}  // namespace mslsim
