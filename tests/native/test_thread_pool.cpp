// Tests of csrc/cpu/thread_pool.h; `make sanitize` runs them under ASan + UBSan and under TSan.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "csrc/cpu/thread_pool.h"
#include "tests/native/test.h"

using mlx_ncps::num_threads;
using mlx_ncps::parallel_for;
using mlx_ncps::set_num_threads;

namespace {

// True when a region of n indices calls its body exactly once for each.
bool visits_each_once(std::size_t n) {
  std::vector<std::atomic<int>> visits(n);
  parallel_for(n, [&](std::size_t i) { visits[i].fetch_add(1); });
  for (const auto& count : visits) {
    if (count.load() != 1) return false;
  }
  return true;
}

// Ends only if as many threads run at the same time as there are indices.
void wait_for_each_other(int threads) {
  std::atomic<int> arrived{0};
  parallel_for(threads, [&](std::size_t) {
    arrived.fetch_add(1);
    while (arrived.load() < threads) std::this_thread::yield();
  });
}

}  // namespace

NATIVE_TEST(parallel_for_visits_each_index_once) {
  for (int threads : {1, 2, 3, 8}) {
    set_num_threads(threads);
    for (std::size_t n : {0, 1, 2, 3, 7, 64, 1000}) CHECK(visits_each_once(n));
  }
}

NATIVE_TEST(parallel_chains_runs_the_links_of_a_chain_in_order) {
  for (int threads : {1, 2, 3, 8}) {
    set_num_threads(threads);
    for (std::size_t chains : {0, 1, 2, 3, 17}) {
      constexpr std::size_t LINKS = 50;
      std::vector<std::size_t> next(chains,
                                    0);  // plain memory: a link sees what the last one wrote
      std::vector<std::atomic<int>> busy(threads);
      std::atomic<bool> wrong{false};
      mlx_ncps::parallel_chains(threads, chains, LINKS,
                                [&](std::size_t thread, std::size_t chain, std::size_t link) {
                                  if (busy[thread].exchange(1) || next[chain]++ != link)
                                    wrong = true;
                                  busy[thread] = 0;
                                });
      CHECK(!wrong.load());
      CHECK(next == std::vector<std::size_t>(chains, LINKS));
    }
  }
}

NATIVE_TEST(parallel_chains_rethrows) {
  set_num_threads(2);
  const auto body = [](std::size_t, std::size_t chain, std::size_t link) {
    if (chain == 1 && link == 2) throw std::runtime_error("link");
  };
  bool thrown = false;
  try {
    mlx_ncps::parallel_chains(2, 3, 4, body);
  } catch (const std::runtime_error&) {
    thrown = true;
  }
  CHECK(thrown);
}

NATIVE_TEST(parallel_for_survives_many_short_regions) {
  set_num_threads(4);
  std::size_t total = 0;
  for (int repeat = 0; repeat < 2000; ++repeat) {
    std::vector<std::size_t> squares(9);  // plain memory: written before parallel_for returns
    parallel_for(squares.size(), [&](std::size_t i) { squares[i] = i * i; });
    total += std::accumulate(squares.begin(), squares.end(), std::size_t{0});
  }
  CHECK(total == 2000 * 204);
}

NATIVE_TEST(parallel_for_uses_all_threads) {
  for (int threads : {8, 2, 5, 8}) {
    set_num_threads(threads);
    for (int repeat = 0; repeat < 10; ++repeat) wait_for_each_other(threads);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // now the workers are asleep
    wait_for_each_other(threads);
  }
}

NATIVE_TEST(parallel_for_stays_within_the_number_of_threads) {
  set_num_threads(6);
  CHECK(visits_each_once(100));  // six threads exist from here on
  set_num_threads(2);
  for (int repeat = 0; repeat < 50; ++repeat) {
    std::atomic<int> inside{0}, most{0};
    parallel_for(64, [&](std::size_t) {
      const int now = inside.fetch_add(1) + 1;
      int seen = most.load();
      while (seen < now && !most.compare_exchange_weak(seen, now)) {
      }
      std::this_thread::yield();
      inside.fetch_sub(1);
    });
    CHECK(most.load() <= 2);
  }
}

NATIVE_TEST(parallel_for_runs_on_the_caller_with_one_thread) {
  set_num_threads(1);
  std::set<std::thread::id> threads;
  parallel_for(50, [&](std::size_t) { threads.insert(std::this_thread::get_id()); });
  CHECK(threads == std::set<std::thread::id>{std::this_thread::get_id()});
}

NATIVE_TEST(parallel_for_nests) {
  set_num_threads(4);
  std::vector<std::atomic<int>> visits(8 * 5 * 3);
  parallel_for(8, [&](std::size_t i) {
    parallel_for(5, [&](std::size_t j) {
      parallel_for(3, [&](std::size_t k) { visits[(i * 5 + j) * 3 + k].fetch_add(1); });
    });
  });
  for (const auto& count : visits) CHECK(count.load() == 1);
}

NATIVE_TEST(parallel_for_runs_a_nested_region_on_its_caller) {
  set_num_threads(4);  // two for the outer region, two idle
  std::atomic<int> elsewhere{0};
  parallel_for(2, [&](std::size_t) {
    const auto caller = std::this_thread::get_id();
    parallel_for(20, [&](std::size_t) {
      if (std::this_thread::get_id() != caller) elsewhere.fetch_add(1);
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    });
  });
  CHECK(elsewhere.load() == 0);
}

NATIVE_TEST(parallel_for_serves_concurrent_callers) {
  set_num_threads(3);
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      for (int repeat = 0; repeat < 200; ++repeat) {
        if (!visits_each_once(37)) wrong.fetch_add(1);
      }
    });
  }
  for (auto& caller : callers) caller.join();
  CHECK(wrong.load() == 0);
}

NATIVE_TEST(parallel_for_propagates_exceptions) {
  for (int threads : {1, 4}) {
    set_num_threads(threads);
    for (std::size_t bad : {0, 17, 99}) {
      std::string message;
      try {
        parallel_for(100, [&](std::size_t i) {
          if (i == bad) throw std::runtime_error("index " + std::to_string(i));
        });
      } catch (const std::runtime_error& error) {
        message = error.what();
      }
      CHECK(message == "index " + std::to_string(bad));
      CHECK(visits_each_once(100));  // the pool is as good as before
    }
  }
}

NATIVE_TEST(parallel_for_throws_one_of_many_exceptions) {
  set_num_threads(4);
  int caught = 0;
  for (int repeat = 0; repeat < 50; ++repeat) {
    try {
      parallel_for(40, [](std::size_t) { throw std::logic_error("every index"); });
    } catch (const std::logic_error&) {
      ++caught;
    }
  }
  CHECK(caught == 50);
}

#if !defined(__SANITIZE_THREAD__)  // TSan cannot follow threads that a forked child creates
NATIVE_TEST(parallel_for_works_in_a_forked_child) {
  set_num_threads(3);
  CHECK(visits_each_once(100));  // the parent has workers, the child will not
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    bool right = true;
    for (int repeat = 0; repeat < 20; ++repeat) right = right && visits_each_once(100);
    wait_for_each_other(3);  // it has workers of its own again
    _exit(right ? 0 : 1);
  }
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  CHECK(visits_each_once(100));
}

// The child is forked while another thread holds the workers: it must not inherit the lock.
NATIVE_TEST(parallel_for_works_in_a_child_forked_during_a_region) {
  set_num_threads(2);
  std::atomic<int> arrived{0};
  std::atomic<bool> finish{false};
  std::thread caller([&] {
    parallel_for(2, [&](std::size_t) {
      arrived.fetch_add(1);
      while (!finish.load()) std::this_thread::yield();
    });
  });
  while (arrived.load() < 2) std::this_thread::yield();
  const pid_t child = fork();
  if (child == 0) {
    wait_for_each_other(2);
    _exit(0);
  }
  finish.store(true);
  caller.join();
  CHECK(child > 0);
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}
#endif

NATIVE_TEST(set_num_threads_is_safe_during_regions) {
  std::atomic<bool> stop{false};
  std::atomic<int> wrong{0};
  std::thread caller([&] {
    while (!stop.load()) {
      if (!visits_each_once(64)) wrong.fetch_add(1);
    }
  });
  for (int repeat = 0; repeat < 300; ++repeat) {
    set_num_threads(1 + repeat % 5);
    std::this_thread::yield();
  }
  stop.store(true);
  caller.join();
  CHECK(wrong.load() == 0);
}

NATIVE_TEST(set_num_threads_zero_returns_to_the_default) {
  set_num_threads(0);
  const int by_default = num_threads();
  CHECK(by_default >= 1);
  set_num_threads(by_default + 3);
  CHECK(num_threads() == by_default + 3);
  set_num_threads(0);
  CHECK(num_threads() == by_default);
}

NATIVE_TEST(set_num_threads_rejects_other_numbers) {
  for (int n : {-1, 1 << 20}) {
    bool thrown = false;
    try {
      set_num_threads(n);
    } catch (const std::invalid_argument&) {
      thrown = true;
    }
    CHECK(thrown);
  }
}
