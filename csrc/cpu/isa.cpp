// Chooses the kernels' instruction set (once, at first use, or by name) and gives the
// instruction-set files their memory and threads.
#include <sys/mman.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <string>

#include "csrc/cpu/interrupt.h"
#include "csrc/cpu/kernels.h"
#include "csrc/cpu/thread_pool.h"

namespace mlx_ncps {
namespace {

constexpr const char* NAMES[] = {
#ifdef MLX_NCPS_X86
    "avx512", "avx2", "baseline",
#else
    "neon",
#endif
    nullptr};

// The table of that name, or null where this CPU lacks the instructions.
const Kernels* table(const std::string& name) {
#ifdef MLX_NCPS_X86
  __builtin_cpu_init();
  if (name == "avx512" && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return &kernels_avx512();
  if (name == "avx2" && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return &kernels_avx2();
#endif
  return name == "baseline" || name == kernels_baseline().name ? &kernels_baseline() : nullptr;
}

const Kernels& find(const std::string& name) {
  if (const Kernels* k = table(name)) return *k;
  std::string runnable;
  for (const char* const* n = NAMES; *n; ++n)
    if (table(*n)) runnable += std::string(runnable.empty() ? "" : ", ") + *n;
  throw std::invalid_argument("[mlx_ncps] instruction set '" + name +
                              "' can't run on this CPU; wanted one of: " + runnable + ".");
}

const Kernels& best() {
  if (const char* wanted = std::getenv("MLX_NCPS_ISA"); wanted && *wanted) return find(wanted);
  for (const char* const* n = NAMES; *n; ++n)
    if (const Kernels* k = table(*n)) return *k;
  return kernels_baseline();
}

std::atomic<const Kernels*> chosen{nullptr};

}  // namespace

const Kernels& kernels() {
  const Kernels* k = chosen.load(std::memory_order_acquire);
  if (!k) chosen.store(k = &best(), std::memory_order_release);
  return *k;
}

void choose_kernels(const char* name) {
  chosen.store(std::string(name) == "auto" ? &best() : &find(name), std::memory_order_release);
}

const char* const* available_kernels() {
  static const char* runnable[sizeof(NAMES) / sizeof(NAMES[0])] = {};
  static const bool once = [] {
    int count = 0;
    for (const char* const* n = NAMES; *n; ++n)
      if (table(*n)) runnable[count++] = *n;
    return true;
  }();
  (void)once;
  return runnable;
}

double vector_limit(Limit limit) {
  const bool gates = limit == Limit::GATES;
  const Kernels& k = kernels();
  const auto run = gates ? k.run_gates : k.run_multiply_adds;
  const long rounds = gates ? 200000 : 2000000;  // some ms each: a worker is awake by then
  const std::size_t threads = std::size_t(num_threads());
  std::atomic<float> sink{0};
  using Clock = std::chrono::steady_clock;
  double best = 0;
  for (const auto end = Clock::now() + std::chrono::milliseconds(200); Clock::now() < end;) {
    const auto start = Clock::now();
    parallel_for(threads, [&](std::size_t) { sink = run(rounds); });
    const std::chrono::duration<double> seconds = Clock::now() - start;
    const double done = double(rounds) * k.limit_block * k.lanes * double(threads);
    if (done / seconds.count() > best) best = done / seconds.count();
  }
  return best;
}

void run_parallel(long count, void (*body)(void* context, long index), void* context) {
  const bool main = works_for_main();
  parallel_for(std::size_t(count), [=](std::size_t i) {
    const WorkFor caller(main);
    body(context, long(i));
  });
}

void run_chains(long threads, long chains, long links,
                void (*body)(void* context, long thread, long chain, long link), void* context) {
  const bool main = works_for_main();
  parallel_chains(std::size_t(threads), std::size_t(chains), std::size_t(links),
                  [=](std::size_t thread, std::size_t chain, std::size_t link) {
                    const WorkFor caller(main);
                    body(context, long(thread), long(chain), long(link));
                  });
}

void unknown_choice(const char* what, int number) {
  throw std::invalid_argument(std::string("[mlx_ncps] no ") + what + " has the number " +
                              std::to_string(number) + ".");
}

long parallel_threads() { return num_threads(); }

constexpr std::size_t HUGE_PAGE = 2 << 20;

float* allocate_floats(long count) {
  std::size_t bytes;
  if (__builtin_mul_overflow(sizeof(float), std::size_t(count > 0 ? count : 1), &bytes))
    throw std::bad_alloc();
  void* p = nullptr;
  const bool large = bytes >= 2 * HUGE_PAGE;
  if (posix_memalign(&p, large ? HUGE_PAGE : CACHE_LINE, bytes) != 0) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  // A block of 84 MB, slabs of gradients, otherwise costs 21 000 page faults in each call.
  if (large) madvise(p, bytes, MADV_HUGEPAGE);
#endif
  return static_cast<float*>(p);
}
void free_floats(float* p) { std::free(p); }

}  // namespace mlx_ncps
