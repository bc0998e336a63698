// <metal_type_traits>: what MLX's headers and kernels ask about types.
#pragma once

namespace metal {

template <typename T, T v>
struct integral_constant {
  static constexpr constant T value = v;
  typedef T value_type;
};
typedef integral_constant<bool, true> true_type;
typedef integral_constant<bool, false> false_type;
template <bool B>
using bool_constant = integral_constant<bool, B>;

template <bool B, typename T = void>
struct enable_if {};
template <typename T>
struct enable_if<true, T> {
  typedef T type;
};
template <bool B, typename T = void>
using enable_if_t = typename enable_if<B, T>::type;

template <bool B, typename T, typename F>
struct conditional {
  typedef T type;
};
template <typename T, typename F>
struct conditional<false, T, F> {
  typedef F type;
};
template <bool B, typename T, typename F>
using conditional_t = typename conditional<B, T, F>::type;

template <typename A, typename B>
struct is_same : false_type {};
template <typename A>
struct is_same<A, A> : true_type {};
template <typename A, typename B>
static constexpr constant bool is_same_v = __is_same(A, B);
template <typename A, typename B>
static constexpr constant bool is_convertible_v = __is_convertible_to(A, B);
template <typename A, typename B>
struct is_convertible : bool_constant<__is_convertible_to(A, B)> {};

template <typename T>
struct remove_const {
  typedef T type;
};
template <typename T>
struct remove_const<const T> {
  typedef T type;
};
template <typename T>
struct remove_volatile {
  typedef T type;
};
template <typename T>
struct remove_volatile<volatile T> {
  typedef T type;
};
template <typename T>
struct remove_cv {
  typedef typename remove_const<typename remove_volatile<T>::type>::type type;
};
template <typename T>
using remove_cv_t = typename remove_cv<T>::type;

template <typename T>
struct remove_reference {
  typedef T type;
};
template <typename T>
struct remove_addrspace {
  typedef T type;
};
#define MSL_REMOVE(SPACE)             \
  template <typename T>               \
  struct remove_reference<SPACE T&> { \
    typedef T type;                   \
  };                                  \
  template <typename T>               \
  struct remove_addrspace<SPACE T> {  \
    typedef T type;                   \
  };
MSL_REMOVE(thread)
MSL_REMOVE(device)
MSL_REMOVE(threadgroup)
MSL_REMOVE(constant)
template <typename T>
using remove_reference_t = typename remove_reference<T>::type;
template <typename T>
using remove_addrspace_t = remove_cv_t<typename remove_addrspace<T>::type>;

template <typename...>
struct disjunction : false_type {};
template <typename A>
struct disjunction<A> : A {};
template <typename A, typename... R>
struct disjunction<A, R...> : conditional_t<bool(A::value), A, disjunction<R...>> {};
template <typename...>
struct conjunction : true_type {};
template <typename A>
struct conjunction<A> : A {};
template <typename A, typename... R>
struct conjunction<A, R...> : conditional_t<bool(A::value), conjunction<R...>, A> {};

// A value that is the same in all threads: here any value.
template <typename T>
using uniform = T;
template <typename T>
MSL_INLINE T make_uniform(T x) {
  return x;
}

enum __msl_kinds {
  __msl_none,
  __msl_bool,
  __msl_signed,
  __msl_unsigned,
  __msl_float,
  __msl_bfloat
};
template <typename T>
struct __msl_kind {
  static constexpr constant int v = __msl_none;
};
#define MSL_KIND(T, k)                   \
  template <>                            \
  struct __msl_kind<T> {                 \
    static constexpr constant int v = k; \
  };
MSL_KIND(bool, __msl_bool)
MSL_KIND(char, __msl_signed)
MSL_KIND(signed char, __msl_signed)
MSL_KIND(short, __msl_signed)
MSL_KIND(int, __msl_signed)
MSL_KIND(long, __msl_signed)
MSL_KIND(uchar, __msl_unsigned)
MSL_KIND(ushort, __msl_unsigned)
MSL_KIND(uint, __msl_unsigned)
MSL_KIND(ulong, __msl_unsigned)
MSL_KIND(half, __msl_float)
MSL_KIND(float, __msl_float)
MSL_KIND(bfloat, __msl_bfloat)
template <typename T>
static constexpr constant int __msl_kind_v = __msl_kind<remove_cv_t<T>>::v;

#define MSL_TRAIT(name, condition)                     \
  template <typename T>                                \
  static constexpr constant bool name##_v = condition; \
  template <typename T>                                \
  struct name : bool_constant<name##_v<T>> {};
MSL_TRAIT(is_integral, __msl_kind_v<T> >= __msl_bool && __msl_kind_v<T> <= __msl_unsigned)
MSL_TRAIT(is_floating_point, __msl_kind_v<T> >= __msl_float)
MSL_TRAIT(is_arithmetic, __msl_kind_v<T> != __msl_none)
MSL_TRAIT(is_signed, __msl_kind_v<T> == __msl_signed || __msl_kind_v<T> >= __msl_float)
MSL_TRAIT(is_unsigned, __msl_kind_v<T> == __msl_unsigned || __msl_kind_v<T> == __msl_bool)

template <typename T>
struct make_unsigned;
template <typename T>
struct make_signed;
#define MSL_SIGNS(S, U)     \
  template <>               \
  struct make_unsigned<S> { \
    typedef U type;         \
  };                        \
  template <>               \
  struct make_unsigned<U> { \
    typedef U type;         \
  };                        \
  template <>               \
  struct make_signed<S> {   \
    typedef S type;         \
  };                        \
  template <>               \
  struct make_signed<U> {   \
    typedef S type;         \
  };
MSL_SIGNS(char, uchar)
MSL_SIGNS(short, ushort)
MSL_SIGNS(int, uint)
MSL_SIGNS(long, ulong)
template <typename T>
using make_unsigned_t = typename make_unsigned<T>::type;
template <typename T>
using make_signed_t = typename make_signed<T>::type;

}  // namespace metal
