// Scratch memory and the parallel loop of the instruction-set files; included inside an anonymous
// namespace after simd.inl.

struct Scratch {
  float* data;
  explicit Scratch(long count) : data(allocate_floats(count)) {}
  ~Scratch() { free_floats(data); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
};

// Hands out pieces of one scratch block; the same walk with a null base counts the floats needed.
struct Carver {
  float* base;
  long used = 0;
  float* take(long count) {
    float* p = base ? base + used : nullptr;
    used += round_up(count, 16);
    return p;
  }
};

template <typename Body>
static void parallel(long count, Body& body) {
  run_parallel(count, [](void* context, long i) { (*static_cast<Body*>(context))(i); }, &body);
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

// The sum of one element of the tasks' slabs, in order.
static inline float sum_slabs(const float* at, long stride, long count) {
  float sum = 0.0f;
  for (long i = 0; i < count; ++i) sum += at[i * stride];
  return sum;
}
