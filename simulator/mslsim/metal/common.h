// <metal_common>, <metal_geometric>, <metal_relational>.
#pragma once

namespace metal {

// One overload a type, as in Metal: min(uint, int) is ambiguous there and here.
#define MSL_INTEGER_COMMON(T)                                              \
  MSL_INLINE constexpr T min(T a, T b) { return b < a ? b : a; }           \
  MSL_INLINE constexpr T max(T a, T b) { return a < b ? b : a; }           \
  MSL_INLINE constexpr T min3(T a, T b, T c) { return min(a, min(b, c)); } \
  MSL_INLINE constexpr T max3(T a, T b, T c) { return max(a, max(b, c)); } \
  MSL_INLINE constexpr T clamp(T x, T lo, T hi) { return min(max(x, lo), hi); }
MSL_INTEGER_COMMON(char)
MSL_INTEGER_COMMON(uchar)
MSL_INTEGER_COMMON(short)
MSL_INTEGER_COMMON(ushort)
MSL_INTEGER_COMMON(int)
MSL_INTEGER_COMMON(uint)
MSL_INTEGER_COMMON(long)
MSL_INTEGER_COMMON(ulong)

#define MSL_FLOAT_COMMON(T)                                                          \
  MSL_INLINE T min(T a, T b) { return (T)__builtin_fminf(a, b); }                    \
  MSL_INLINE T max(T a, T b) { return (T)__builtin_fmaxf(a, b); }                    \
  MSL_INLINE T clamp(T x, T lo, T hi) { return min(max(x, lo), hi); }                \
  MSL_INLINE T saturate(T x) { return clamp(x, (T)0, (T)1); }                        \
  MSL_INLINE T sign(T x) { return x > (T)0 ? (T)1 : x < (T)0 ? (T) - 1 : (T)0 * x; } \
  MSL_INLINE T mix(T x, T y, T a) { return x + (y - x) * a; }                        \
  MSL_INLINE T step(T edge, T x) { return x < edge ? (T)0 : (T)1; }                  \
  MSL_INLINE T smoothstep(T a, T b, T x) {                                           \
    T t = clamp((x - a) / (b - a), (T)0, (T)1);                                      \
    return t * t * ((T)3 - (T)2 * t);                                                \
  }                                                                                  \
  MSL_INLINE T abs(T x) { return (T)__builtin_fabsf(x); }                            \
  MSL_INLINE T ldexp(T x, int k) { return (T)ldexpf(x, k); }                         \
  MSL_INLINE T frexp(T x, thread int& e) { return (T)__metal_frexp((float)x, &e); }  \
  MSL_INLINE T modf(T x, thread T& whole) {                                          \
    whole = (T)__builtin_truncf(x);                                                  \
    return x - whole;                                                                \
  }                                                                                  \
  MSL_INLINE T sincos(T x, thread T& c) {                                            \
    c = (T)cosf(x);                                                                  \
    return (T)sinf(x);                                                               \
  }
#define MSL_FLOATS_COMMON MSL_FLOAT_COMMON(float) MSL_FLOAT_COMMON(half)
MSL_FLOATS_COMMON
namespace fast {
MSL_FLOATS_COMMON
}
namespace precise {
MSL_FLOATS_COMMON
}

#define MSL_SIGNED_ABS(T) \
  MSL_INLINE constexpr T abs(T x) { return x < 0 ? (T) - x : x; }
#define MSL_UNSIGNED_ABS(T) \
  MSL_INLINE constexpr T abs(T x) { return x; }
MSL_SIGNED_ABS(char)
MSL_SIGNED_ABS(short)
MSL_SIGNED_ABS(int)
MSL_SIGNED_ABS(long)
MSL_UNSIGNED_ABS(uchar)
MSL_UNSIGNED_ABS(ushort)
MSL_UNSIGNED_ABS(uint)
MSL_UNSIGNED_ABS(ulong)

#define MSL_IF_ANY_VEC template <typename V, enable_if_t<__is_vec<V>, bool> = true>
#define MSL_BY_COMPONENT(R, value)                      \
  {                                                     \
    R r;                                                \
    for (int i = 0; i < __size<V>; i++) r[i] = (value); \
    return r;                                           \
  }
MSL_IF_ANY_VEC MSL_INLINE V min(V a, V b)
    MSL_BY_COMPONENT(V, min(a[i], b[i])) MSL_IF_ANY_VEC MSL_INLINE V max(V a, V b)
        MSL_BY_COMPONENT(V, max(a[i], b[i])) MSL_IF_ANY_VEC MSL_INLINE V abs(V a)
            MSL_BY_COMPONENT(V, abs(a[i])) MSL_IF_VEC MSL_INLINE V sign(V x)
                MSL_BY_COMPONENT(V, sign(x[i])) MSL_IF_ANY_VEC MSL_INLINE V clamp(V x, V a, V b) {
  return min(max(x, a), b);
}
MSL_IF_ANY_VEC MSL_INLINE V clamp(V x, __elem<V> a, __elem<V> b) { return min(max(x, (V)a), (V)b); }
MSL_IF_VEC MSL_INLINE V saturate(V x) { return clamp(x, (V)(__elem<V>)0, (V)(__elem<V>)1); }
MSL_IF_VEC MSL_INLINE V mix(V x, V y, V a) { return x + (y - x) * a; }
MSL_IF_VEC MSL_INLINE V mix(V x, V y, __elem<V> a) { return x + (y - x) * a; }

MSL_IF_VEC MSL_INLINE __elem<V> dot(V a, V b) {
  __elem<V> s = a[0] * b[0];
  for (int i = 1; i < __size<V>; i++) s += a[i] * b[i];
  return s;
}
MSL_IF_VEC MSL_INLINE __elem<V> length_squared(V a) { return dot(a, a); }
MSL_IF_VEC MSL_INLINE __elem<V> length(V a) { return sqrt(dot(a, a)); }
MSL_IF_VEC MSL_INLINE V normalize(V a) { return a * rsqrt(dot(a, a)); }
MSL_IF_VEC MSL_INLINE __elem<V> distance(V a, V b) { return length(a - b); }
MSL_INLINE float3 cross(float3 a, float3 b) {
  return float3{a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}

#define MSL_CLASSIFY(name, test)                                                    \
  MSL_INLINE bool name(float x) { return test; }                                    \
  MSL_INLINE bool name(half h) {                                                    \
    float x = h;                                                                    \
    return test;                                                                    \
  }                                                                                 \
  template <typename T, enable_if_t<__msl_kind<T>::v == __msl_bfloat, bool> = true> \
  MSL_INLINE bool name(T h) {                                                       \
    float x = h;                                                                    \
    return test;                                                                    \
  }                                                                                 \
  MSL_IF_VEC MSL_INLINE __bool_vec<V> name(V v) MSL_BY_COMPONENT(__bool_vec<V>, name(v[i]) ? -1 : 0)
MSL_CLASSIFY(isnan, __builtin_isnan(x))
MSL_CLASSIFY(isinf, __builtin_isinf(x))
MSL_CLASSIFY(isfinite, __builtin_isfinite(x))
MSL_CLASSIFY(isnormal, __builtin_isnormal(x))
MSL_CLASSIFY(signbit, (as_type<uint>(x) >> 31) != 0)

template <typename T, enable_if_t<is_arithmetic_v<T>, bool> = true>
MSL_INLINE constexpr T select(T a, T b, bool c) {
  return c ? b : a;
}
template <typename V, typename C, enable_if_t<__is_vec<V> && __is_vec<C>, bool> = true>
MSL_INLINE V select(V a, V b, C c) MSL_BY_COMPONENT(V, c[i] ? b[i] : a[i])

    MSL_INLINE bool any(bool x) {
  return x;
}
MSL_INLINE bool all(bool x) { return x; }
MSL_IF_ANY_VEC MSL_INLINE bool any(V v) {
  bool r = false;
  for (int i = 0; i < __size<V>; i++) r = r || v[i];
  return r;
}
MSL_IF_ANY_VEC MSL_INLINE bool all(V v) {
  bool r = true;
  for (int i = 0; i < __size<V>; i++) r = r && v[i];
  return r;
}

}  // namespace metal
