// How many threads a region may use: see thread_pool.h.
#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>

#include "csrc/cpu/thread_pool.h"
#if defined(__linux__)
#include <sched.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace mlx_ncps {

int available_cpus() {
#if defined(__linux__)
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  if (sched_getaffinity(0, sizeof(cpus), &cpus) == 0 && CPU_COUNT(&cpus) > 0) {
    return CPU_COUNT(&cpus);
  }
#elif defined(__APPLE__)
  int cores = 0;  // performance cores: a region ends when its slowest thread does
  std::size_t size = sizeof(cores);
  if (sysctlbyname("hw.perflevel0.logicalcpu", &cores, &size, nullptr, 0) == 0 && cores > 0) {
    return cores;
  }
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

namespace {

constexpr int kMaxThreads = 1024;

int default_threads() {
  const char* variable = std::getenv("MLX_NCPS_NUM_THREADS");
  const std::string_view text = variable ? variable : "";
  if (text.empty()) return std::min(available_cpus(), kMaxThreads);
  int n = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), n);
  if (error != std::errc() || end != text.data() + text.size() || n < 1 || n > kMaxThreads) {
    throw std::invalid_argument("[threads] MLX_NCPS_NUM_THREADS must be an integer from 1 to " +
                                std::to_string(kMaxThreads) + ", got '" + std::string(text) + "'.");
  }
  return n;
}

// What set_num_threads() was given; 0 = the default.
std::atomic<int> requested_threads{0};

}  // namespace

int num_threads() {
  const int requested = requested_threads.load(std::memory_order_relaxed);
  if (requested > 0) return requested;
  static const int by_default = default_threads();
  return by_default;
}

void set_num_threads(int n) {
  if (n < 0 || n > kMaxThreads) {
    throw std::invalid_argument("[threads] the number of threads must be from 0 (default) to " +
                                std::to_string(kMaxThreads) + ", got " + std::to_string(n) + ".");
  }
  requested_threads.store(n, std::memory_order_relaxed);
}

}  // namespace mlx_ncps
