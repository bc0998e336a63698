// <metal_math>: float and half functions, with the variants of metal::fast and metal::precise.
//
// Everything is computed in float and rounded once. Results of transcendentals pass __msl_ulp.
#pragma once

enum {
  __METAL_MAYBE_FAST_MATH__ = 0,
  __METAL_FAST_MATH__ = 1,
  __METAL_PRECISE_MATH__ = 2,
};

// Functions that are exact or correctly rounded.
#define MSL_EXACT_1(name, result) \
  MSL_INLINE float __metal_##name(float x, int mode = 0) { return result; }
#define MSL_EXACT_2(name, result) \
  MSL_INLINE float __metal_##name(float x, float y, int mode = 0) { return result; }
#define MSL_EXACT_3(name, result) \
  MSL_INLINE float __metal_##name(float x, float y, float z, int mode = 0) { return result; }
// Functions whose last bits differ between implementations.
#define MSL_ROUGH_1(name, result) \
  MSL_INLINE float __metal_##name(float x, int mode = 0) { return __msl_ulp(result, mode); }
#define MSL_ROUGH_2(name, result)                                   \
  MSL_INLINE float __metal_##name(float x, float y, int mode = 0) { \
    return __msl_ulp(result, mode);                                 \
  }

MSL_EXACT_1(ceil, __builtin_ceilf(x))
MSL_EXACT_1(fabs, __builtin_fabsf(x))
MSL_EXACT_1(floor, __builtin_floorf(x))
MSL_EXACT_1(fract, __builtin_fminf(x - __builtin_floorf(x), 0x1.fffffep-1f))
MSL_EXACT_1(rint, __builtin_rintf(x))
MSL_EXACT_1(round, __builtin_roundf(x))
MSL_EXACT_1(sqrt, __builtin_sqrtf(x))
MSL_EXACT_1(trunc, __builtin_truncf(x))
MSL_EXACT_2(copysign, __builtin_copysignf(x, y))
MSL_EXACT_2(divide, x / y)
MSL_EXACT_2(fdim, x > y ? x - y : 0.0f)
MSL_EXACT_2(fmax, __builtin_fmaxf(x, y))
MSL_EXACT_2(fmin, __builtin_fminf(x, y))
MSL_EXACT_2(fmod, fmodf(x, y))
MSL_EXACT_2(nextafter, nextafterf(x, y))
MSL_EXACT_3(fma, __builtin_fmaf(x, y, z))
MSL_EXACT_3(fmax3, __builtin_fmaxf(x, __builtin_fmaxf(y, z)))
MSL_EXACT_3(fmin3, __builtin_fminf(x, __builtin_fminf(y, z)))
MSL_EXACT_3(fmedian3,
            __builtin_fmaxf(__builtin_fminf(x, y), __builtin_fminf(__builtin_fmaxf(x, y), z)))
MSL_ROUGH_1(acos, acosf(x))
MSL_ROUGH_1(acosh, acoshf(x))
MSL_ROUGH_1(asin, asinf(x))
MSL_ROUGH_1(asinh, asinhf(x))
MSL_ROUGH_1(atan, atanf(x))
MSL_ROUGH_1(atanh, atanhf(x))
MSL_ROUGH_1(cos, cosf(x))
MSL_ROUGH_1(cosh, coshf(x))
MSL_ROUGH_1(cospi, cosf(M_PI_F* x))
MSL_ROUGH_1(exp, expf(x))
MSL_ROUGH_1(exp2, exp2f(x))
MSL_ROUGH_1(exp10, exp10f(x))
MSL_ROUGH_1(log, logf(x))
MSL_ROUGH_1(log2, log2f(x))
MSL_ROUGH_1(log10, log10f(x))
MSL_ROUGH_1(rsqrt, 1.0f / __builtin_sqrtf(x))
MSL_ROUGH_1(sin, sinf(x))
MSL_ROUGH_1(sinh, sinhf(x))
MSL_ROUGH_1(sinpi, sinf(M_PI_F* x))
MSL_ROUGH_1(tan, tanf(x))
MSL_ROUGH_1(tanh, tanhf(x))
MSL_ROUGH_1(tanpi, tanf(M_PI_F* x))
MSL_ROUGH_2(atan2, atan2f(x, y))
MSL_ROUGH_2(pow, powf(x, y))
MSL_ROUGH_2(powr, powf(x, y))

MSL_INLINE float __metal_ldexp(float x, int k, int mode = 0) { return ldexpf(x, k); }
MSL_INLINE float __metal_frexp(float x, thread int* e) {
  *e = 0;
  if (x == 0.0f || x != x || __builtin_fabsf(x) == INFINITY) return x;
  *e = ilogbf(x) + 1;
  return ldexpf(x, -*e);
}
MSL_INLINE ushort __metal_get_simdgroup_size(ushort) { return 32; }

namespace metal {

// Overloads for float, half and their vectors; bfloat goes through float and stays float, and an
// integer argument is ambiguous, as in Metal.
#define MSL_IF_VEC template <typename V, enable_if_t<__is_float_vec<V>, bool> = true>
#define MSL_OVERLOADS_1(name, mode)                                                          \
  MSL_INLINE float name(float x) { return __metal_##name(x, mode); }                         \
  MSL_INLINE half name(half x) { return (half)__metal_##name((float)x, mode); }              \
  template <typename T, enable_if_t<__msl_kind<T>::v == __msl_bfloat, bool> = true>          \
  MSL_INLINE float name(T x) {                                                               \
    return __metal_##name((float)x, mode);                                                   \
  }                                                                                          \
  MSL_IF_VEC MSL_INLINE V name(V x) {                                                        \
    V r;                                                                                     \
    for (int i = 0; i < __size<V>; i++) r[i] = (__elem<V>)__metal_##name((float)x[i], mode); \
    return r;                                                                                \
  }
#define MSL_OVERLOADS_2(name, mode)                                                               \
  MSL_INLINE float name(float x, float y) { return __metal_##name(x, y, mode); }                  \
  MSL_INLINE half name(half x, half y) { return (half)__metal_##name((float)x, (float)y, mode); } \
  MSL_IF_VEC MSL_INLINE V name(V x, V y) {                                                        \
    V r;                                                                                          \
    for (int i = 0; i < __size<V>; i++)                                                           \
      r[i] = (__elem<V>)__metal_##name((float)x[i], (float)y[i], mode);                           \
    return r;                                                                                     \
  }
#define MSL_OVERLOADS_3(name, mode)                                                          \
  MSL_INLINE float name(float x, float y, float z) { return __metal_##name(x, y, z, mode); } \
  MSL_INLINE half name(half x, half y, half z) {                                             \
    return (half)__metal_##name((float)x, (float)y, (float)z, mode);                         \
  }                                                                                          \
  MSL_IF_VEC MSL_INLINE V name(V x, V y, V z) {                                              \
    V r;                                                                                     \
    for (int i = 0; i < __size<V>; i++)                                                      \
      r[i] = (__elem<V>)__metal_##name((float)x[i], (float)y[i], (float)z[i], mode);         \
    return r;                                                                                \
  }
// clang-format off
#define MSL_MATH(m) \
  MSL_OVERLOADS_1(acos, m) MSL_OVERLOADS_1(acosh, m) MSL_OVERLOADS_1(asin, m) \
  MSL_OVERLOADS_1(asinh, m) MSL_OVERLOADS_1(atan, m) MSL_OVERLOADS_1(atanh, m) \
  MSL_OVERLOADS_1(ceil, m) MSL_OVERLOADS_1(cos, m) MSL_OVERLOADS_1(cosh, m) \
  MSL_OVERLOADS_1(cospi, m) MSL_OVERLOADS_1(exp, m) MSL_OVERLOADS_1(exp2, m) \
  MSL_OVERLOADS_1(exp10, m) MSL_OVERLOADS_1(fabs, m) MSL_OVERLOADS_1(floor, m) \
  MSL_OVERLOADS_1(fract, m) MSL_OVERLOADS_1(log, m) MSL_OVERLOADS_1(log2, m) \
  MSL_OVERLOADS_1(log10, m) MSL_OVERLOADS_1(rint, m) MSL_OVERLOADS_1(round, m) \
  MSL_OVERLOADS_1(rsqrt, m) MSL_OVERLOADS_1(sin, m) MSL_OVERLOADS_1(sinh, m) \
  MSL_OVERLOADS_1(sinpi, m) MSL_OVERLOADS_1(sqrt, m) MSL_OVERLOADS_1(tan, m) \
  MSL_OVERLOADS_1(tanh, m) MSL_OVERLOADS_1(tanpi, m) MSL_OVERLOADS_1(trunc, m) \
  MSL_OVERLOADS_2(atan2, m) MSL_OVERLOADS_2(copysign, m) MSL_OVERLOADS_2(divide, m) \
  MSL_OVERLOADS_2(fdim, m) MSL_OVERLOADS_2(fmax, m) MSL_OVERLOADS_2(fmin, m) \
  MSL_OVERLOADS_2(fmod, m) MSL_OVERLOADS_2(nextafter, m) MSL_OVERLOADS_2(pow, m) \
  MSL_OVERLOADS_2(powr, m) MSL_OVERLOADS_3(fma, m) MSL_OVERLOADS_3(fmax3, m) \
  MSL_OVERLOADS_3(fmedian3, m) MSL_OVERLOADS_3(fmin3, m)
// clang-format on
MSL_MATH(__METAL_MAYBE_FAST_MATH__)
namespace fast {
MSL_MATH(__METAL_FAST_MATH__)
}
namespace precise {
MSL_MATH(__METAL_PRECISE_MATH__)
}

}  // namespace metal
