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
constexpr long FLUSH_STEPS = 32;

// The sum of one element of the tasks' slabs, in order.
static inline float sum_slabs(const float* at, long stride, long count) {
  float sum = 0.0f;
  for (long i = 0; i < count; ++i) sum += at[i * stride];
  return sum;
}
