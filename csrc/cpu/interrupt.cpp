// See interrupt.h.
#include "csrc/cpu/interrupt.h"

#include <atomic>

#include "csrc/cpu/kernels.h"

namespace mlx_ncps {

int gave_up = 0;

namespace {
thread_local bool for_main = false;
std::atomic<bool (*)()> before{nullptr};
}  // namespace

WorkFor::WorkFor(bool main) : before_(for_main) { for_main = main; }
WorkFor::~WorkFor() { for_main = before_; }
bool works_for_main() { return for_main; }

void give_up(bool on) { __atomic_store_n(&gave_up, on, __ATOMIC_RELAXED); }
bool gives_up() { return __atomic_load_n(&gave_up, __ATOMIC_RELAXED); }
void stop_work() {
  if (for_main) throw Interrupted();
}

bool before_work() {
  const auto f = before.load(std::memory_order_acquire);
  return f && f();
}
void set_before_work(bool (*f)()) { before.store(f, std::memory_order_release); }

}  // namespace mlx_ncps
