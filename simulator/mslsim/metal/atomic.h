// <metal_atomic>: relaxed atomics on 32-bit integers, float and bool.
#pragma once

namespace metal {

template <typename T>
struct atomic {
  T __s;
};
// C++ for OpenCL has other types of these names.
#define atomic_int __msl_atomic_int_t
#define atomic_uint __msl_atomic_uint_t
#define atomic_bool __msl_atomic_bool_t
#define atomic_float __msl_atomic_float_t
#define atomic_ulong __msl_atomic_ulong_t
typedef atomic<int> atomic_int;
typedef atomic<uint> atomic_uint;
typedef atomic<bool> atomic_bool;
typedef atomic<float> atomic_float;
typedef atomic<ulong> atomic_ulong;

// Which operations a type has: bits and order, arithmetic, plain exchange.
template <typename T>
static constexpr constant bool __msl_atomic_int = is_same_v<T, int> || is_same_v<T, uint>;
template <typename T>
static constexpr constant bool __msl_atomic_sum = __msl_atomic_int<T> || is_same_v<T, float>;
template <typename T>
static constexpr constant bool __msl_atomic_any = __msl_atomic_sum<T> || is_same_v<T, bool>;
template <typename T>
using __msl_atomic_bits = conditional_t<sizeof(T) == 4, uint, uchar>;

#define MSL_ATOMIC_CAS(SPACE, p, expected, wanted)                                       \
  __atomic_compare_exchange_n((volatile SPACE __msl_atomic_bits<T>*)&p->__s,             \
                              (__private __msl_atomic_bits<T>*)&expected, wanted, false, \
                              __ATOMIC_RELAXED, __ATOMIC_RELAXED)

#define MSL_ATOMIC_BASICS(SPACE)                                                          \
  template <typename T, typename F>                                                       \
  MSL_INLINE MSL_UNCHECKED T __msl_update(volatile SPACE atomic<T>* p, T v, F f) {        \
    typedef __msl_atomic_bits<T> B;                                                       \
    __msl_atomic((ulong)p, sizeof(T), 1);                                                 \
    B old = __atomic_load_n((volatile SPACE B*)&p->__s, __ATOMIC_RELAXED), next;          \
    do {                                                                                  \
      next = __builtin_bit_cast(B, f(__builtin_bit_cast(T, old), v));                     \
    } while (!MSL_ATOMIC_CAS(SPACE, p, old, next));                                       \
    return __builtin_bit_cast(T, old);                                                    \
  }                                                                                       \
  template <typename T, enable_if_t<__msl_atomic_any<T>, bool> = true>                    \
  MSL_INLINE MSL_UNCHECKED T atomic_load_explicit(const volatile SPACE atomic<T>* p,      \
                                                  memory_order) {                         \
    __msl_atomic((ulong)p, sizeof(T), 0);                                                 \
    return p->__s;                                                                        \
  }                                                                                       \
  template <typename T, typename U, enable_if_t<__msl_atomic_any<T>, bool> = true>        \
  MSL_INLINE MSL_UNCHECKED void atomic_store_explicit(volatile SPACE atomic<T>* p, U v,   \
                                                      memory_order) {                     \
    __msl_atomic((ulong)p, sizeof(T), 2);                                                 \
    p->__s = (T)v;                                                                        \
  }                                                                                       \
  template <typename T, typename U, enable_if_t<__msl_atomic_any<T>, bool> = true>        \
  MSL_INLINE MSL_UNCHECKED bool atomic_compare_exchange_weak_explicit(                    \
      volatile SPACE atomic<T>* p, thread T* expected, U v, memory_order, memory_order) { \
    typedef __msl_atomic_bits<T> B;                                                       \
    __msl_atomic((ulong)p, sizeof(T), 1);                                                 \
    B old = __builtin_bit_cast(B, *expected), next = __builtin_bit_cast(B, (T)v);         \
    bool done = MSL_ATOMIC_CAS(SPACE, p, old, next);                                      \
    if (!done) *expected = __builtin_bit_cast(T, old);                                    \
    return done;                                                                          \
  }
MSL_ATOMIC_BASICS(device)
MSL_ATOMIC_BASICS(threadgroup)

#define MSL_ATOMIC_UPDATE_IN(SPACE, name, condition, a_and_b)                       \
  template <typename T, typename U, enable_if_t<condition<T>, bool> = true>         \
  MSL_INLINE MSL_UNCHECKED T name(volatile SPACE atomic<T>* p, U v, memory_order) { \
    return __msl_update(p, (T)v, [](T a, T b) { return (T)(a_and_b); });            \
  }
#define MSL_ATOMIC_UPDATE(name, condition, a_and_b)      \
  MSL_ATOMIC_UPDATE_IN(device, name, condition, a_and_b) \
  MSL_ATOMIC_UPDATE_IN(threadgroup, name, condition, a_and_b)
MSL_ATOMIC_UPDATE(atomic_exchange_explicit, __msl_atomic_any, b)
MSL_ATOMIC_UPDATE(atomic_fetch_add_explicit, __msl_atomic_sum, a + b)
MSL_ATOMIC_UPDATE(atomic_fetch_sub_explicit, __msl_atomic_sum, a - b)
MSL_ATOMIC_UPDATE(atomic_fetch_and_explicit, __msl_atomic_int, a& b)
MSL_ATOMIC_UPDATE(atomic_fetch_or_explicit, __msl_atomic_int, a | b)
MSL_ATOMIC_UPDATE(atomic_fetch_xor_explicit, __msl_atomic_int, a ^ b)
MSL_ATOMIC_UPDATE(atomic_fetch_min_explicit, __msl_atomic_int, b < a ? b : a)
MSL_ATOMIC_UPDATE(atomic_fetch_max_explicit, __msl_atomic_int, b < a ? a : b)

}  // namespace metal
