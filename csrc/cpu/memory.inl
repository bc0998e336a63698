// Scratch memory, slabs of gradients and the parallel loops of the kernels.
#pragma once

#include "csrc/cpu/simd.inl"

namespace mlx_ncps {
namespace {

struct Scratch {
  float* data;
  explicit Scratch(long count) : data(allocate_floats(count)) {}
  ~Scratch() { free_floats(data); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
};

// Hands out pieces of one scratch block, each on cache lines of its own; the same walk with a null
// base counts the floats needed.
struct Carver {
  float* base;
  long used = 0;
  float* take(long count) {
    float* p = base ? base + used : nullptr;
    used += round_up(count, LINE_FLOATS);
    return p;
  }
};

// A layout is a function of a Carver& that takes its arrays and returns them in a struct.
template <typename Layout>
static inline auto carve(const Layout& layout, float* base) {
  Carver memory{base};
  return layout(memory);
}
template <typename Layout>
static inline long floats_of(const Layout& layout) {
  Carver count{nullptr};
  layout(count);
  return count.used;
}

// The arrays of a layout, in memory of their own.
template <typename Layout>
struct Carved {
  Scratch scratch;
  decltype(carve(std::declval<Layout>(), nullptr)) arrays;
  explicit Carved(const Layout& layout)
      : scratch(floats_of(layout)), arrays(carve(layout, scratch.data)) {}
  const auto* operator->() const { return &arrays; }
};

template <typename Body>
static void parallel(long count, Body& body) {
  run_parallel(count, [](void* context, long i) { (*static_cast<Body*>(context))(i); }, &body);
}

// body(thread, chain, link) for every link of every chain: csrc/cpu/thread_pool.h.
template <typename Body>
static void parallel_chains(long threads, long chains, long links, Body& body) {
  const auto run = [](void* context, long thread, long chain, long link) {
    (*static_cast<Body*>(context))(thread, chain, link);
  };
  run_chains(threads, chains, links, run, &body);
}

// Between steps: ends the call where Ctrl-C was pressed.
static inline void stop_if_interrupted() {
  if (__atomic_load_n(&gave_up, __ATOMIC_RELAXED)) stop_work();
}

// How many of `threads` some work is worth, in vector operations of about 0.3 ns: 10 us for each,
// five times what it takes to hand a task to a thread that waits.
static inline long share_work(long operations, long threads) {
  const long worth = operations >> 15;
  return worth < 1 ? 1 : min_of(worth, threads);
}

// Rows per task, at most `most`: a multiple of `share` tasks of nearly equal size, so that a small
// batch occupies all threads. A forward shares by the threads (its results do not depend on the
// grouping), a backward by 2, since its slabs must follow from the shape alone.
static inline long even_rows(long B, long most, long share) {
  const long tasks = (B + most * share - 1) / (most * share) * share;
  return tasks > 0 ? (B + tasks - 1) / tasks : 1;
}

static inline void fill(float* p, long n, float value) {
  for (long i = 0; i < n; ++i) p[i] = value;
}
static inline void copy(float* to, const float* from, long n) {
  for (long i = 0; i < n; ++i) to[i] = from[i];
}
static inline void add_to(float* to, const float* from, long n) {
  for (long i = 0; i < n; ++i) to[i] += from[i];
}

// Rows of arrays that the next step reads or writes. They are a sequence apart in memory, so no
// prefetcher of the hardware foresees them; all at once would hold up the loads behind them.
struct Ahead {
  long rows;
  struct {
    const float* at;
    long stride, floats;
  } arrays[3];
};

// Asks L2 for share `i` of `shares` of the rows. Always inline: GCC drops calls of a function that
// does nothing but prefetch.
__attribute__((always_inline)) static inline void prefetch(const Ahead& ahead, long i,
                                                           long shares) {
  for (long r = ahead.rows * i / shares; r < ahead.rows * (i + 1) / shares; ++r)
    for (const auto& a : ahead.arrays)
      for (long n = 0; n < a.floats; n += 16) __builtin_prefetch(a.at + r * a.stride + n, 0, 2);
}

// to += from; from = 0: moves a short running sum into a long one, so that rounding does not grow
// with T.
static inline void flush(float* to, float* from, long n) {
  for (long i = 0; i < n; ++i) {
    to[i] += from[i];
    from[i] = 0.0f;
  }
}
// Every 32 steps: a running sum then has at most 32 U rows of terms, and the flush, one pass over a
// slab that each step passes over, costs 3 % of a step at most.
constexpr long FLUSH_STEPS = 32;

// Slabs of a backward, and so the threads it can use: each costs the parameters' memory twice and a
// share of the final sum.
constexpr long MAX_SLABS = 16;

// Arrays of one layout for each task: a thread's buffers, or the slabs that a backward's tasks sum
// gradients in.
template <typename Layout>
struct Slabs {
  Layout layout;
  long count, stride;
  Scratch memory;
  Slabs(const Layout& of_task, long tasks)
      : layout(of_task), count(tasks), stride(floats_of(of_task)), memory(stride * tasks) {}
  auto of(long task) const { return carve(layout, memory.data + task * stride); }
  // This task's, all 0.
  auto cleared(long task) const {
    fill(memory.data + task * stride, stride, 0.0f);
    return of(task);
  }
  // The sum of an element over the tasks, in order; `first`: that of task 0.
  float sum(const float* first) const {
    float all = 0.0f;
    for (long i = 0; i < count; ++i) all += first[i * stride];
    return all;
  }
  // The same of n elements in a row.
  void sums(const float* first, float* to, long n) const {
    for (long c = 0; c < n; c += W) {
      vf all = vf{};
      for (long i = 0; i < count; ++i) all += load_partial(first + i * stride + c, n - c);
      store_partial(to + c, all, n - c);
    }
  }
};

}  // namespace
}  // namespace mlx_ncps
