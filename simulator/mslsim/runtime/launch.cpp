// One dispatch: places the buffers, runs the threadgroups on host threads, collects the findings.
#include "launch.h"

#include <link.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "state.h"
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace mslsim {

Dispatch* dispatch = nullptr;
thread_local Worker* worker = nullptr;

namespace {

struct sigaction previous_segv, previous_fpe;

// A guard page, a wild pointer or a trap: report it, leave the fiber and this handler for good.
void on_crash(int signal, siginfo_t* info, void*) {
  if (!worker || !worker->current || !worker->catches_crashes) {
    sigaction(signal, signal == SIGFPE ? &previous_fpe : &previous_segv, nullptr);
    raise(signal);
    return;
  }
  const u64 offset = reinterpret_cast<u64>(info->si_addr) - reserved_base;
  const std::string who = thread_name(this_thread());
  if (signal == SIGFPE) {
    report("ub", 0, 0, "\tinteger division trap; %s", who.c_str());
  } else if (offset < reserved_bytes()) {
    const Region& region = dispatch->regions[offset >> stride_log2];
    const u64 top = reserved_base + (offset >> stride_log2 << stride_log2) + half_stride();
    const long long past = static_cast<long long>(offset + reserved_base - top);
    report("oob", 0, 0, "\taccess outside of '%s', %lld bytes from its end; %s",
           region.name.c_str(), past, who.c_str());
  } else {
    report("crash", 0, 0, "\twild access or stack overflow; %s", who.c_str());
  }
  abandon_fiber();
}

class FlushSubnormals {
 public:
#if defined(__x86_64__)
  explicit FlushSubnormals(bool on) : saved_(_mm_getcsr()) {
    if (on) _mm_setcsr(saved_ | 0x8040);  // FTZ, DAZ
  }
  ~FlushSubnormals() { _mm_setcsr(saved_); }

 private:
  u32 saved_;
#else
  explicit FlushSubnormals(bool on) {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    if (on) asm volatile("msr fpcr, %0" : : "r"(saved_ | (u64{1} << 24)));
  }
  ~FlushSubnormals() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }

 private:
  u64 saved_;
#endif
};

// Signals of a fiber are handled on a stack of their own.
class SignalStack {
 public:
  SignalStack() : memory_(std::malloc(kBytes)) {
    stack_t stack{};
    stack.ss_sp = memory_;
    stack.ss_size = kBytes;
    sigaltstack(&stack, &saved_);
  }
  ~SignalStack() {
    sigaltstack(&saved_, nullptr);
    std::free(memory_);
  }

 private:
  static constexpr size_t kBytes = 65536;
  void* memory_;
  stack_t saved_;
};

u64 pick_group(u64 k, u64 total) {
  const Launch& launch = *dispatch->launch;
  if (launch.order == kReverse) return total - 1 - k;
  return launch.order >= kRandom ? (k + launch.seed) % total : k;
}

void run_worker(u32 id) {
  const Launch& launch = *dispatch->launch;
  Worker self;
  worker = &self;
  self.random = launch.seed * 2654435761u + 12345u + id;
  if (self.random == 0) self.random = 1;
  const u32 share = (kRegions - kFirstThreadgroupRegion) / launch.threads;
  for (u32 i = 0; i < share; i++) {
    self.own_regions.push_back(kFirstThreadgroupRegion + id * share + i);
  }
  for (u32 i = 0; i < launch.buffers; i++) self.buffer_addresses[i] = dispatch->regions[i].base;
  const u64 total = dispatch->groups[0] * dispatch->groups[1] * dispatch->groups[2];
  SignalStack signal_stack;
  {
    FlushSubnormals flush(launch.flush_subnormals);
    self.catches_crashes = true;
    for (u64 k; (k = dispatch->next_group++) < total && !dispatch->stop;) {
      run_threadgroup(pick_group(k, total));
    }
    self.catches_crashes = false;
  }
  self.current = nullptr;
  for (Fiber& fiber : self.fibers) free_stack(fiber.stack);
  worker = nullptr;
}

void place_buffers() {
  Launch& launch = *dispatch->launch;
  for (u32 i = 0; i < launch.buffers; i++) {
    Region& region = dispatch->regions[i];
    const u32 flags = launch.flags[i];
    const bool output = flags & kIsOutput;
    allocate_region(i, launch.size[i], launch.item_size[i] < 4 ? launch.item_size[i] : 4,
                    launch.checked, launch.checked && output);
    region.kind = output                ? RegionKind::kOutput
                  : flags & kIsConstant ? RegionKind::kConstant
                                        : RegionKind::kInput;
    region.name = launch.name[i];
    region.initialised = flags & kIsInitialised;
    void* memory = reinterpret_cast<void*>(region.base);
    if (region.initialised) {
      std::memcpy(memory, reinterpret_cast<void*>(launch.address[i]), region.size);
    } else {
      std::memset(memory, 0xFF, region.size);  // NaN
    }
  }
}

void collect_output(u32 i) {
  const Region& region = dispatch->regions[i];
  if (region.kind != RegionKind::kOutput) return;
  std::memcpy(reinterpret_cast<void*>(dispatch->launch->address[i]),
              reinterpret_cast<void*>(region.base), region.size);
  if (!region.cells || region.initialised || dispatch->stop) return;
  const u64 elements = region.size / region.granule;
  u64 missing = 0, first = 0;
  for (u64 c = 0; c < elements; c++) {
    if (!region.cells[c].initialised && missing++ == 0) first = c;
  }
  if (missing == 0) return;
  report("unwritten", 0, 0, "\toutput '%s': %llu of %llu elements never written, the first is %llu",
         region.name.c_str(), static_cast<unsigned long long>(missing),
         static_cast<unsigned long long>(elements), static_cast<unsigned long long>(first));
}

// Finds how much memory the kernel's object takes.
int note_object(dl_phdr_info* object, size_t, void*) {
  if (object->dlpi_addr != dispatch->launch->object_base) return 0;
  for (int i = 0; i < object->dlpi_phnum; i++) {
    const auto& segment = object->dlpi_phdr[i];
    if (segment.p_type != PT_LOAD) continue;
    dispatch->object_bytes =
        std::max<u64>(dispatch->object_bytes, segment.p_vaddr + segment.p_memsz);
  }
  return 1;
}

void run_all() {
  dl_iterate_phdr(note_object, nullptr);
  struct sigaction action{};
  action.sa_sigaction = on_crash;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  sigaction(SIGSEGV, &action, &previous_segv);
  sigaction(SIGFPE, &action, &previous_fpe);
  std::vector<std::thread> threads;
  for (u32 i = 0; i < dispatch->launch->threads; i++) threads.emplace_back(run_worker, i);
  for (std::thread& thread : threads) thread.join();
  sigaction(SIGSEGV, &previous_segv, nullptr);
  sigaction(SIGFPE, &previous_fpe, nullptr);
}

}  // namespace
}  // namespace mslsim

// Returns 0, or 1 when the run was abandoned.
MSLSIM_EXPORT int mslsim_launch(mslsim::Launch* launch) {
  using namespace mslsim;
  Dispatch run;
  dispatch = &run;
  run.launch = launch;
  run.group_size = launch->threadgroup[0] * launch->threadgroup[1] * launch->threadgroup[2];
  for (int k = 0; k < 3; k++) {
    run.groups[k] = (launch->grid[k] + launch->threadgroup[k] - 1) / launch->threadgroup[k];
  }
  bool fits = reserve_addresses(launch->stride_log2);
  if (!fits) report("limit", 0, 0, "\tthe system refuses even a small reservation of addresses");
  for (u32 i = 0; fits && i < launch->buffers; i++) {
    if (launch->size[i] + 65536 <= half_stride()) continue;
    fits = false;
    report("limit", 0, 0, "\tbuffer '%s' has %llu bytes, this process can place %llu",
           launch->name[i], static_cast<unsigned long long>(launch->size[i]),
           static_cast<unsigned long long>(half_stride() - 65536));
  }
  run.stop = !fits;
  if (fits) {
    place_buffers();
    run_all();
    for (u32 i = 0; i < launch->buffers; i++) collect_output(i);
    for (Region& region : run.regions) free_region(region);
  }
  const u64 stats[kStats] = {run.block_bytes, run.switches, run.barriers, run.simd_ops,
                             stride_log2};
  std::memcpy(launch->stats, stats, sizeof stats);
  const u64 length = std::min<u64>(run.report.size(), launch->report_capacity - 1);
  std::memcpy(launch->report, run.report.data(), length);
  launch->report[length] = 0;
  dispatch = nullptr;
  return run.stop ? 1 : 0;
}
