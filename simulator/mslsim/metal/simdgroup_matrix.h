// <metal_simdgroup_matrix>: 8x8 matrices spread over a SIMD group, two elements a lane.
#pragma once

namespace metal {

template <typename T, int R, int C>
struct simdgroup_matrix {
  static_assert(R == 8 && C == 8, "simdgroup_matrix is 8x8");
  vec<T, 2> __e;  // elements (row, col) and (row, col + 1)

  simdgroup_matrix() thread = default;
  explicit simdgroup_matrix(T d) thread {
    uint lane = __msl_lane();
    for (uint k = 0; k < 2; k++) __e[k] = __row(lane) == __col(lane) + k ? d : (T)0;
  }
  thread vec<T, 2>& thread_elements() thread { return __e; }
  const thread vec<T, 2>& thread_elements() const thread { return __e; }
  static MSL_INLINE uint __row(uint lane) { return ((lane >> 2) & 4) + ((lane >> 1) & 3); }
  static MSL_INLINE uint __col(uint lane) { return ((lane >> 2) & 2) * 2 + (lane & 1) * 2; }
};
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;

template <typename T, int R, int C>
MSL_INLINE simdgroup_matrix<T, R, C> make_filled_simdgroup_matrix(T v) {
  simdgroup_matrix<T, R, C> m;
  m.__e = (vec<T, 2>)v;
  return m;
}

#define MSL_MATRIX_LOAD(SPACE)                                                          \
  template <typename T, int R, int C>                                                   \
  MSL_INLINE void simdgroup_load(thread simdgroup_matrix<T, R, C>& m, const SPACE T* p, \
                                 ulong stride = C, ulong2 origin = (ulong2)(0),         \
                                 bool transpose = false, uint site = MSL_SITE) {        \
    __msl_simd_put(0, 0, site);                                                         \
    uint lane = __msl_lane(), r = m.__row(lane), c = m.__col(lane);                     \
    for (uint k = 0; k < 2; k++) {                                                      \
      uint i = transpose ? c + k : r, j = transpose ? r : c + k;                        \
      m.__e[k] = p[(origin.y + i) * stride + origin.x + j];                             \
    }                                                                                   \
  }
#define MSL_MATRIX_STORE(SPACE)                                                              \
  template <typename T, int R, int C>                                                        \
  MSL_INLINE void simdgroup_store(simdgroup_matrix<T, R, C> m, SPACE T* p, ulong stride = C, \
                                  ulong2 origin = (ulong2)(0), bool transpose = false,       \
                                  uint site = MSL_SITE) {                                    \
    __msl_simd_put(0, 0, site);                                                              \
    uint lane = __msl_lane(), r = m.__row(lane), c = m.__col(lane);                          \
    for (uint k = 0; k < 2; k++) {                                                           \
      uint i = transpose ? c + k : r, j = transpose ? r : c + k;                             \
      p[(origin.y + i) * stride + origin.x + j] = m.__e[k];                                  \
    }                                                                                        \
  }
MSL_MATRIX_LOAD(device)
MSL_MATRIX_LOAD(threadgroup)
MSL_MATRIX_LOAD(constant)
MSL_MATRIX_STORE(device)
MSL_MATRIX_STORE(threadgroup)

// The lane that holds element (row, col).
MSL_INLINE uint __msl_matrix_lane(uint row, uint col) {
  return ((row & 4) << 2) | ((col & 4) << 1) | ((row & 3) << 1) | ((col >> 1) & 1);
}

// d = a b + c, summed in float.
template <typename TD, typename TA, typename TB, typename TC, int R, int C>
MSL_INLINE void simdgroup_multiply_accumulate(thread simdgroup_matrix<TD, R, C>& d,
                                              simdgroup_matrix<TA, R, C> a,
                                              simdgroup_matrix<TB, R, C> b,
                                              simdgroup_matrix<TC, R, C> c, uint site = MSL_SITE) {
  uint lane = __msl_lane(), row = d.__row(lane), col = d.__col(lane);
  float a_row[8], s0 = (float)c.__e[0], s1 = (float)c.__e[1];
  __msl_put(a.__e, site);
  for (uint k = 0; k < 8; k++) {
    a_row[k] = (float)__msl_get<vec<TA, 2>>(__msl_matrix_lane(row, k))[k & 1];
  }
  __msl_put(b.__e, site);
  for (uint k = 0; k < 8; k++) {
    vec<TB, 2> b_pair = __msl_get<vec<TB, 2>>(__msl_matrix_lane(k, col));
    s0 += a_row[k] * (float)b_pair[0];
    s1 += a_row[k] * (float)b_pair[1];
  }
  d.__e[0] = (TD)s0;
  d.__e[1] = (TD)s1;
}
template <typename TD, typename TA, typename TB, int R, int C>
MSL_INLINE void simdgroup_multiply(thread simdgroup_matrix<TD, R, C>& d,
                                   simdgroup_matrix<TA, R, C> a, simdgroup_matrix<TB, R, C> b,
                                   uint site = MSL_SITE) {
  simdgroup_matrix<TD, R, C> zero = make_filled_simdgroup_matrix<TD, R, C>((TD)0);
  simdgroup_multiply_accumulate(d, a, b, zero, site);
}

}  // namespace metal
