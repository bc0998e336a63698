// <metal_simdgroup_matrix>: 8x8 matrices spread over the 32 lanes of a SIMD group, two elements a
// lane. Which ones is not said by Metal: in the order "forward" as MLX found them on Apple's GPUs,
// in the others elsewhere.
#pragma once

namespace metal {

// The place of this lane, and the lane that holds element (row, col).
MSL_INLINE uint __matrix_place() { return __msl_lane() ^ __msl_matrix_layout(); }
MSL_INLINE uint __matrix_row() {
  return ((__matrix_place() >> 2) & 4) + (__matrix_place() >> 1 & 3);
}
MSL_INLINE uint __matrix_col() {
  return ((__matrix_place() >> 2) & 2) * 2 + (__matrix_place() & 1) * 2;
}
MSL_INLINE uint __matrix_lane(uint row, uint col) {
  const uint place = ((row & 4) << 2) | ((col & 4) << 1) | ((row & 3) << 1) | ((col >> 1) & 1);
  return place ^ __msl_matrix_layout();
}

template <typename T, int C, int R>
struct simdgroup_matrix {
  static_assert(R == 8 && C == 8, "simdgroup_matrix is 8x8");
  vec<T, 2> __e;  // elements (row, col) and (row, col + 1)
  bool __set;

  simdgroup_matrix() thread : __set(false) { __e[0] = __e[1] = (T)__builtin_nanf(""); }
  explicit simdgroup_matrix(T d) thread : __set(true) {
    for (uint k = 0; k < 2; k++) __e[k] = __matrix_row() == __matrix_col() + k ? d : (T)0;
  }
  thread vec<T, 2>& thread_elements() thread {
    __set = true;
    return __e;
  }
  const thread vec<T, 2>& thread_elements() const thread { return __e; }
};
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;

template <typename T, int C, int R>
MSL_INLINE simdgroup_matrix<T, C, R> make_filled_simdgroup_matrix(T v) {
  simdgroup_matrix<T, C, R> m;
  m.__e = (vec<T, 2>)v;
  m.__set = true;
  return m;
}

template <typename T, int C, int R>
MSL_INLINE ulong __matrix_read(simdgroup_matrix<T, C, R> m) {
  if (!m.__set) __msl_matrix_unset();
  if constexpr (sizeof(m.__e) == 8) {
    return __builtin_bit_cast(ulong, m.__e);
  } else {
    return __builtin_bit_cast(uint, m.__e);
  }
}
template <typename T>
MSL_INLINE float __matrix_element(ulong pair, uint k) {
  if constexpr (sizeof(T) == 4) {
    return (float)__builtin_bit_cast(vec<T, 2>, pair)[k];
  } else {
    return (float)__builtin_bit_cast(vec<T, 2>, (uint)pair)[k];
  }
}

// Element (row, col + k) of this lane in memory.
#define MSL_MATRIX_AT                                                                    \
  p[(origin.y + (transpose ? __matrix_col() + k : __matrix_row())) * stride + origin.x + \
    (transpose ? __matrix_row() : __matrix_col() + k)]
#define MSL_MATRIX_MEMORY(SPACE)                                                             \
  template <typename T, int C, int R>                                                        \
  MSL_INLINE void simdgroup_load(thread simdgroup_matrix<T, C, R>& m, const SPACE T* p,      \
                                 ulong stride = C, ulong2 origin = (ulong2)(0),              \
                                 bool transpose = false, uint site = MSL_SITE) {             \
    __msl_matrix_put(0, 0, site);                                                            \
    for (uint k = 0; k < 2; k++) m.__e[k] = MSL_MATRIX_AT;                                   \
    m.__set = true;                                                                          \
  }                                                                                          \
  template <typename T, int C, int R>                                                        \
  MSL_INLINE void simdgroup_store(simdgroup_matrix<T, C, R> m, SPACE T* p, ulong stride = C, \
                                  ulong2 origin = (ulong2)(0), bool transpose = false,       \
                                  uint site = MSL_SITE) {                                    \
    __matrix_read(m);                                                                        \
    __msl_matrix_put(0, 0, site);                                                            \
    for (uint k = 0; k < 2; k++) MSL_MATRIX_AT = m.__e[k];                                   \
  }
MSL_MATRIX_MEMORY(device)
MSL_MATRIX_MEMORY(threadgroup)

// d = a b + c, summed in float.
template <typename TD, typename TA, typename TB, typename TC, int C, int R>
MSL_INLINE void simdgroup_multiply_accumulate(thread simdgroup_matrix<TD, C, R>& d,
                                              simdgroup_matrix<TA, C, R> a,
                                              simdgroup_matrix<TB, C, R> b,
                                              simdgroup_matrix<TC, C, R> c, uint site = MSL_SITE) {
  __matrix_read(c);
  const ulong bits = __matrix_read(a);
  __msl_matrix_put(bits, __matrix_read(b), site);
  const uint row = __matrix_row(), col = __matrix_col();
  float s0 = (float)c.__e[0], s1 = (float)c.__e[1];
  for (uint k = 0; k < 8; k++) {
    const float x = __matrix_element<TA>(__msl_simd_lo(__matrix_lane(row, k)), k & 1);
    const ulong pair = __msl_simd_hi(__matrix_lane(k, col));
    s0 += x * __matrix_element<TB>(pair, 0);
    s1 += x * __matrix_element<TB>(pair, 1);
  }
  d.__e[0] = (TD)s0;
  d.__e[1] = (TD)s1;
  d.__set = true;
}
template <typename TD, typename TA, typename TB, int C, int R>
MSL_INLINE void simdgroup_multiply(thread simdgroup_matrix<TD, C, R>& d,
                                   simdgroup_matrix<TA, C, R> a, simdgroup_matrix<TB, C, R> b,
                                   uint site = MSL_SITE) {
  simdgroup_matrix<TD, C, R> zero = make_filled_simdgroup_matrix<TD, C, R>((TD)0);
  simdgroup_multiply_accumulate(d, a, b, zero, site);
}

}  // namespace metal
