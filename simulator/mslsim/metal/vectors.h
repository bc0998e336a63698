// Vector types as template arguments, as_type, and vector constructors.
#pragma once

namespace metal {

template <typename T, int N>
using vec = T __attribute__((ext_vector_type(N)));

template <typename T>
struct __msl_vec {
  static constexpr constant int n = 0;
  typedef T elem;
};
template <typename T, int N>
struct __msl_vec<vec<T, N>> {
  static constexpr constant int n = N;
  typedef T elem;
};
template <typename T>
static constexpr constant int __size = __msl_vec<T>::n;
template <typename T>
using __elem = typename __msl_vec<T>::elem;
template <typename T>
using __bool_vec = vec<int, __size<T>>;
template <typename T>
static constexpr constant bool __is_vec = (__size<T> > 0);
template <typename T>
static constexpr constant bool __is_float_vec = __is_vec<T> && is_floating_point_v<__elem<T>>;

template <typename To, typename From>
MSL_INLINE constexpr To as_type(From x) {
  static_assert(sizeof(To) == sizeof(From), "as_type: sizes differ");
  return __builtin_bit_cast(To, x);
}

}  // namespace metal
using metal::as_type;
using metal::vec;

// The front end writes V(a, b, ...) as __msl_make<V>(a, b, ...): arguments are scalars and vectors
// whose components fill V in order, or one scalar for all of it.
template <typename A>
constexpr int __msl_components() {
  return metal::__is_vec<A> ? metal::__size<A> : 1;
}

template <typename V, typename A>
MSL_INLINE void __msl_append(thread V& v, thread int& k, A a) {
  typedef metal::__elem<V> E;
  if constexpr (metal::__is_vec<A>) {
    for (int i = 0; i < metal::__size<A>; i++) v[k++] = (E)a[i];
  } else {
    v[k++] = (E)a;
  }
}

template <typename V, typename... A>
MSL_INLINE V __msl_join(A... a) {
  V v;
  int k = 0;
  (__msl_append(v, k, a), ...);
  return v;
}

template <typename V, typename... A>
MSL_INLINE constexpr V __msl_make(A... a) {
  typedef metal::__elem<V> E;
  if constexpr (!metal::__is_vec<V>) {
    return V(a...);  // a dependent type that is no vector after all
  } else if constexpr (sizeof...(A) == 0) {
    return (V)(E)0;
  } else if constexpr (sizeof...(A) == 1 && !(metal::__is_vec<A> || ...)) {
    return V((E(a), ...));
  } else {
    static_assert((__msl_components<A>() + ...) == metal::__size<V>,
                  "vector constructor: wrong number of components");
    if constexpr ((metal::__is_vec<A> || ...)) {
      return __msl_join<V>(a...);
    } else {
      return V{(E)a...};
    }
  }
}
