// See thread_pool.h.
#include "csrc/cpu/thread_pool.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "csrc/cpu/cache_line.h"
#if defined(__APPLE__)
#include <pthread/qos.h>
#endif

namespace mlx_ncps {
namespace {

using Body = std::function<void(std::size_t)>;

// Waking a sleeping thread costs some 50 microseconds, often more than a kernel runs. A thread that
// waits therefore looks for that long whether its condition has come true before it goes to sleep:
// the kernels of one training step follow each other faster than that, and an idle process soon
// uses no CPU time. With more threads than CPUs spinning would only steal time, so there is none.
constexpr std::chrono::microseconds kSpin{50};

void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <typename Condition>
void spin_until(Condition condition) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 16; ++i) {
      if (condition()) return;
      pause_cpu();
    }
  } while (std::chrono::steady_clock::now() < end);
}

// Who asked for the work waits for it. A thread of the default class may land on an efficiency
// core, and a region ends when its slowest thread does.
void raise_priority() {
#if defined(__APPLE__)
  pthread_set_qos_class_self_np(QOS_CLASS_USER_INITIATED, 0);
#endif
}

// One call of parallel_for. Lives on its caller's stack; `seats` and `error` belong to the mutex of
// the pool.
struct Region {
  Region(const Body& body, std::size_t count, int seats) : body(body), count(count), seats(seats) {}

  const Body& body;
  const std::size_t count;
  alignas(CACHE_LINE) std::atomic<std::size_t> next{0};  // the first index that nobody has taken
  alignas(CACHE_LINE) int seats;                         // workers that may still join
  std::atomic<int> working{0};                           // workers that have joined and not left
  std::exception_ptr error;
};

// Workers that help with one region at a time. They are detached and the pool is never destroyed,
// so that leaving the process neither waits for them nor takes the mutex away under them.
class Pool {
 public:
  // `before_fork`: the parent's pool, whose threads do not exist in this process. Its mutex may be
  // held for ever, so it is only kept, out of sight of leak checkers.
  explicit Pool(Pool* before_fork) : before_fork_(before_fork) {}

  bool try_acquire() { return !busy_.exchange(true, std::memory_order_acquire); }
  void release() { busy_.store(false, std::memory_order_release); }

  // The caller takes indices like a worker does, so it depends on none of them and waits only for
  // those that joined: a worker that wakes up too late is not missed. Needs try_acquire().
  void run(std::size_t n, int threads, const Body& body) {
    spinning_.store(threads <= available_cpus_, std::memory_order_relaxed);
    hire(threads - 1);
    Region region(body, n, std::min(threads - 1, workers_));
    open(region);
    work(region);
    close(region);
    if (region.error) std::rethrow_exception(region.error);
  }

 private:
  // Workers are never dismissed: with fewer threads the surplus sleeps.
  void hire(int workers) {
    try {
      for (; workers_ < workers; ++workers_) {
        std::thread([this, seen = generation_.load()] { serve(seen); }).detach();
      }
    } catch (const std::system_error&) {
      // The system refuses more threads: the caller and those that exist do the work.
    }
  }

  void open(Region& region) {
    std::unique_lock lock(mutex_);
    region_ = &region;
    generation_.fetch_add(1, std::memory_order_release);
    const int sleeping = sleeping_, seats = region.seats;
    lock.unlock();
    if (seats >= sleeping) {
      wake_.notify_all();
    } else {
      for (int i = 0; i < seats; ++i) wake_.notify_one();
    }
  }

  void work(Region& region) {
    for (;;) {
      const std::size_t i = region.next.fetch_add(1, std::memory_order_relaxed);
      if (i >= region.count) return;
      try {
        region.body(i);
      } catch (...) {
        region.next.store(region.count, std::memory_order_relaxed);
        std::lock_guard lock(mutex_);
        if (!region.error) region.error = std::current_exception();
        return;
      }
    }
  }

  void close(Region& region) {
    std::unique_lock lock(mutex_);
    region_ = nullptr;
    if (region.working.load() == 0) return;
    lock.unlock();
    const auto done = [&] { return region.working.load(std::memory_order_acquire) == 0; };
    if (spinning_.load(std::memory_order_relaxed)) spin_until(done);
    lock.lock();  // also when done: the last worker leaves under the mutex
    done_.wait(lock, done);
  }

  // A worker's life; `seen` is the last generation that it must not join any more.
  void serve(unsigned seen) {
    raise_priority();
    for (;;) {
      Region& region = join(seen);
      work(region);
      std::lock_guard lock(mutex_);
      if (region.working.fetch_sub(1, std::memory_order_release) == 1) done_.notify_one();
    }
  }

  // Waits for a region with a free seat and takes it.
  Region& join(unsigned& seen) {
    const auto news = [&] { return generation_.load(std::memory_order_acquire) != seen; };
    if (spinning_.load(std::memory_order_relaxed)) spin_until(news);
    std::unique_lock lock(mutex_);
    for (;;) {
      ++sleeping_;
      wake_.wait(lock, news);
      --sleeping_;
      seen = generation_.load();
      if (region_ && region_->seats > 0) {
        --region_->seats;
        region_->working.fetch_add(1);
        return *region_;
      }
    }
  }

  Pool* const before_fork_;
  const int available_cpus_ = available_cpus();
  std::atomic<bool> busy_{false};
  std::atomic<bool> spinning_{true};
  int workers_ = 0;  // belongs to the holder of busy_
  // Counts the regions; workers that wait spin on it, while others sign up under the mutex.
  alignas(CACHE_LINE) std::atomic<unsigned> generation_{0};
  alignas(CACHE_LINE) std::mutex mutex_;  // the rest belongs to it
  std::condition_variable wake_, done_;
  Region* region_ = nullptr;  // the one that workers may join
  int sleeping_ = 0;          // workers inside wake_.wait
};

std::atomic<Pool*> pool{new Pool(nullptr)};

// A forked child starts with a new pool; creating it here cannot race, the child has one thread.
[[maybe_unused]] const int fork_handler =
    pthread_atfork(nullptr, nullptr, [] { pool.store(new Pool(pool.load())); });

}  // namespace

void parallel_for(std::size_t n, const Body& body) {
  const int threads = static_cast<int>(std::min<std::size_t>(n, num_threads()));
  Pool& workers = *pool.load();
  // The workers serve one region. A second stream's, or one inside a region, finds them taken.
  if (threads <= 1 || !workers.try_acquire()) {
    for (std::size_t i = 0; i < n; ++i) body(i);
    return;
  }
  struct Release {
    Pool& pool;
    ~Release() { pool.release(); }
  } release{workers};
  workers.run(n, threads, body);
}

void parallel_chains(std::size_t threads, std::size_t chains, std::size_t links,
                     const ChainBody& body) {
  if (std::min(threads, chains) <= 1) {  // a single step of a cell: nothing to keep account of
    for (std::size_t chain = 0; chain < chains; ++chain)
      for (std::size_t link = 0; link < links; ++link) body(0, chain, link);
    return;
  }
  // Twice the next link of a chain; odd while a thread runs it.
  std::vector<std::atomic<std::size_t>> states(chains);
  // The chain that is furthest behind of those that no thread has, taken; `chains` if there is
  // none.
  const auto take = [&](std::size_t& link) {
    for (;;) {
      std::size_t best = chains, behind = 2 * links;
      for (std::size_t c = 0; c < chains; ++c) {
        const std::size_t state = states[c].load(std::memory_order_relaxed);
        if (state % 2 == 0 && state < behind) best = c, behind = state;
      }
      if (best == chains) return chains;
      link = behind / 2;
      if (states[best].compare_exchange_strong(behind, behind + 1, std::memory_order_acquire))
        return best;
    }
  };
  parallel_for(std::min(threads, chains), [&](std::size_t thread) {
    std::size_t link = 0;
    for (auto c = take(link); c < chains; c = take(link)) {
      body(thread, c, link);
      states[c].store(2 * link + 2, std::memory_order_release);
    }
  });
}

}  // namespace mlx_ncps
