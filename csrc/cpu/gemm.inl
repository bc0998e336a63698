// C[M, N] (+)= A[M, K] B[K, N] with B packed in panels of NR columns and a register tile of up to
// MR rows x NR columns. A is read through two strides, so that A^T B (weight gradients) is the same
// code. Rows of C hold whole panels.
#pragma once

#include "csrc/cpu/memory.inl"

namespace mlx_ncps {
namespace {

constexpr long NV = 2, NR = NV * W;
#if NCPS_VECTOR_BYTES == 64
constexpr int MR = 12;  // 24 of 32 registers hold C
#elif defined(__ARM_NEON)
constexpr int MR = 8;
#elif NCPS_VECTOR_BYTES == 32
constexpr int MR = 6;  // 12 of 16
#else
constexpr int MR = 4;
#endif

// Rows x steps of one chunk of steps whose input half is one GEMM: its buffer stays in L2 up to a
// few hundred units.
constexpr long CHUNK_ROWS = 192;

static inline long panel_floats(long depth, long columns) { return round_up(columns, NR) * depth; }

// panels [columns / NR][depth][NR] <- element (k, n) at row(k)[n * column_stride]; columns past the
// end are 0.
template <typename Row>
static void pack_panels(Row row, long depth, long columns, long column_stride, float* out) {
  for (long n = 0; n < columns; n += NR)
    for (long k = 0; k < depth; ++k, out += NR) {
      const float* from = row(k) + n * column_stride;
      const long live = min_of(NR, columns - n);
      for (long j = 0; j < live; ++j) out[j] = from[j * column_stride];
      for (long j = live; j < NR; ++j) out[j] = 0.0f;
    }
}

#if defined(__ARM_NEON)
// Steps of the depth in fours where A's rows are contiguous: one load brings four elements of a
// row, and a multiply-add takes one of them. Otherwise each is loaded into all lanes, which costs
// the vector pipes an operation more for every two. The sums are the same, in the same order.
template <int M>
static inline long four_steps(const float* A, long row_stride, const float* panel, long depth,
                              vf (&c)[M][NV]) {
  long k = 0;
  for (; k + 4 <= depth; k += 4) {
    vf a[M];
    for (int m = 0; m < M; ++m) a[m] = load(A + m * row_stride + k);
#pragma GCC unroll 4
    for (int step = 0; step < 4; ++step, panel += NR)
      for (int v = 0; v < NV; ++v) {
        const vf b = load(panel + v * W);
        for (int m = 0; m < M; ++m) c[m][v] += a[m][step] * b;
      }
  }
  return k;
}
#endif

template <int M>
static inline void gemm_tile(const float* A, long row_stride, long depth_stride, const float* panel,
                             long depth, float* C, long ldc, const float* start, long ld_start) {
  vf c[M][NV];
  for (int m = 0; m < M; ++m)
    for (int v = 0; v < NV; ++v) c[m][v] = start ? load(start + m * ld_start + v * W) : vf{};
  long first = 0;
#if defined(__ARM_NEON)
  if (depth_stride == 1) first = four_steps<M>(A, row_stride, panel, depth, c);
  A += first * depth_stride, panel += first * NR;
#endif
  for (long k = first; k < depth; ++k, A += depth_stride, panel += NR) {
    vf b[NV];
    for (int v = 0; v < NV; ++v) b[v] = load(panel + v * W);
#pragma GCC unroll 12
    for (int m = 0; m < M; ++m) {
      const vf a = splat(A[m * row_stride]);
      for (int v = 0; v < NV; ++v) c[m][v] += a * b[v];
    }
  }
  for (int m = 0; m < M; ++m)
    for (int v = 0; v < NV; ++v) store(C + m * ldc + v * W, c[m][v]);
}

template <int M>
static inline void gemm_tile_of(long rows, const float* A, long row_stride, long depth_stride,
                                const float* panel, long depth, float* C, long ldc,
                                const float* start, long ld_start) {
  if (rows == M)
    return gemm_tile<M>(A, row_stride, depth_stride, panel, depth, C, ldc, start, ld_start);
  if constexpr (M > 1)
    gemm_tile_of<M - 1>(rows, A, row_stride, depth_stride, panel, depth, C, ldc, start, ld_start);
}

// C = start + A B. Element (m, k) of A is A[m * row_stride + k * depth_stride]; `start` is laid out
// as C with rows ld_start apart (0: a bias), null for 0. `ahead` is prefetched between the tiles.
static void gemm_from(const float* start, long ld_start, const float* A, long row_stride,
                      long depth_stride, long M, const float* panels, long depth, long columns,
                      float* C, long ldc, const Ahead* ahead = nullptr) {
  const long tiles = (M + MR - 1) / MR, all = tiles * ((columns + NR - 1) / NR);
  long done = 0;
  for (long n = 0; n < columns; n += NR, panels += depth * NR)
    for (long tile = 0; tile < tiles; ++tile) {
      if (ahead) prefetch(*ahead, done++, all);
      const long m = M * tile / tiles, rows = M * (tile + 1) / tiles - m;
      gemm_tile_of<MR>(rows, A + m * row_stride, row_stride, depth_stride, panels, depth,
                       C + m * ldc + n, ldc, start ? start + m * ld_start + n : nullptr, ld_start);
    }
}

static void gemm(const float* A, long row_stride, long depth_stride, long M, const float* panels,
                 long depth, long columns, float* C, long ldc, bool accumulate,
                 const Ahead* ahead = nullptr) {
  gemm_from(accumulate ? C : nullptr, ldc, A, row_stride, depth_stride, M, panels, depth, columns,
            C, ldc, ahead);
}

// sums [columns] += the sum of `depth` rows, `stride` apart.
static void add_column_sums(const float* rows, long depth, long stride, long columns, float* sums) {
  constexpr long SUMS = 4;  // additions in flight that hide their latency
  long n = 0;
  for (; n + SUMS * W <= columns; n += SUMS * W) {
    vf sum[SUMS];
    for (int v = 0; v < SUMS; ++v) sum[v] = load(sums + n + v * W);
    for (long d = 0; d < depth; ++d)
      for (int v = 0; v < SUMS; ++v) sum[v] += load(rows + d * stride + n + v * W);
    for (int v = 0; v < SUMS; ++v) store(sums + n + v * W, sum[v]);
  }
  for (long d = 0; d < depth; ++d) add_to(sums + n, rows + d * stride + n, columns - n);
}

}  // namespace
}  // namespace mlx_ncps
