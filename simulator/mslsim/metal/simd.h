// <metal_simdgroup>, <metal_quadgroup>: exchange between the 32 lanes of a SIMD group.
//
// Every function is a rendezvous: a lane leaves its value with __msl_simd_put, waits for the lanes
// that are to come, and reads theirs. None of them orders memory; simdgroup_barrier does.
#pragma once

template <typename T>
MSL_INLINE uint __msl_put(T x, uint site) {
  if constexpr (sizeof(T) == 16) {
    ulong2 u = __builtin_bit_cast(ulong2, x);
    return __msl_simd_put(u[0], u[1], site);
  } else if constexpr (sizeof(T) == 8) {
    return __msl_simd_put(__builtin_bit_cast(ulong, x), 0, site);
  } else if constexpr (sizeof(T) == 4) {
    return __msl_simd_put(__builtin_bit_cast(uint, x), 0, site);
  } else if constexpr (sizeof(T) == 2) {
    return __msl_simd_put(__builtin_bit_cast(ushort, x), 0, site);
  } else {
    return __msl_simd_put(__builtin_bit_cast(uchar, x), 0, site);
  }
}

template <typename T>
MSL_INLINE T __msl_get(uint lane) {
  if constexpr (sizeof(T) == 16) {
    ulong2 u;
    u[0] = __msl_simd_lo(lane);
    u[1] = __msl_simd_hi(lane);
    return __builtin_bit_cast(T, u);
  } else if constexpr (sizeof(T) == 8) {
    return __builtin_bit_cast(T, __msl_simd_lo(lane));
  } else if constexpr (sizeof(T) == 4) {
    return __builtin_bit_cast(T, (uint)__msl_simd_lo(lane));
  } else if constexpr (sizeof(T) == 2) {
    return __builtin_bit_cast(T, (ushort)__msl_simd_lo(lane));
  } else {
    return __builtin_bit_cast(T, (uchar)__msl_simd_lo(lane));
  }
}

// A tree over the active lanes: pairs at distance 16, 8, 4, 2, 1.
#define MSL_REDUCE(name, a_and_b)                                                    \
  template <typename T>                                                              \
  __attribute__((noinline)) MSL_UNCHECKED T __msl_reduce_##name(uint mask, T self) { \
    T v[32];                                                                         \
    bool on[32];                                                                     \
    for (uint i = 0; i < 32; i++) {                                                  \
      on[i] = (mask >> i) & 1;                                                       \
      v[i] = on[i] ? __msl_get<T>(i) : self;                                         \
    }                                                                                \
    for (uint d = 16; d; d >>= 1) {                                                  \
      for (uint i = 0; i < d; i++) {                                                 \
        if (on[i] && on[i + d]) {                                                    \
          T a = v[i], b = v[i + d];                                                  \
          v[i] = a_and_b;                                                            \
        } else if (on[i + d]) {                                                      \
          v[i] = v[i + d];                                                           \
          on[i] = true;                                                              \
        }                                                                            \
      }                                                                              \
    }                                                                                \
    return v[0];                                                                     \
  }                                                                                  \
  template <typename T>                                                              \
  MSL_INLINE T __metal_simd_##name(T x, uint site = MSL_SITE) {                      \
    uint mask = __msl_put(x, site);                                                  \
    return __msl_reduce_##name<T>(mask, x);                                          \
  }
template <typename T>
MSL_INLINE T __msl_xor(T a, T b) {
  if constexpr (metal::__msl_kind<T>::v >= metal::__msl_float) {
    return a;  // MLX's headers name it for floats, nothing calls it
  } else {
    return (T)(a ^ b);
  }
}
MSL_REDUCE(sum, (T)(a + b))
MSL_REDUCE(product, (T)(a * b))
MSL_REDUCE(max, metal::max(a, b))
MSL_REDUCE(min, metal::min(a, b))
MSL_REDUCE(and, (T)(a & b))
MSL_REDUCE(or, (T)(a | b))
MSL_REDUCE(xor, __msl_xor<T>(a, b))

// Over the active lanes before this one, and this one when `self` is 1.
#define MSL_SCAN(name, start, a_and_b, self)                               \
  template <typename T>                                                    \
  __attribute__((noinline)) MSL_UNCHECKED T __msl_scan_##name(uint mask) { \
    T s = (T)start;                                                        \
    for (uint i = 0; i < __msl_lane() + self; i++) {                       \
      if (!((mask >> i) & 1)) continue;                                    \
      T a = s, b = __msl_get<T>(i);                                        \
      s = a_and_b;                                                         \
    }                                                                      \
    return s;                                                              \
  }                                                                        \
  template <typename T>                                                    \
  MSL_INLINE T __metal_simd_##name(T x, uint site = MSL_SITE) {            \
    return __msl_scan_##name<T>(__msl_put(x, site));                       \
  }
MSL_SCAN(prefix_inclusive_sum, 0, (T)(a + b), 1)
MSL_SCAN(prefix_exclusive_sum, 0, (T)(a + b), 0)
MSL_SCAN(prefix_inclusive_product, 1, (T)(a * b), 1)
MSL_SCAN(prefix_exclusive_product, 1, (T)(a * b), 0)

template <typename T>
MSL_INLINE T __metal_simd_shuffle(T x, ushort lane, uint site = MSL_SITE) {
  __msl_put(x, site);
  return __msl_get<T>(lane);
}
template <typename T>
MSL_INLINE T __metal_simd_broadcast(T x, ushort lane, uint site = MSL_SITE) {
  return __metal_simd_shuffle(x, lane, site);
}
template <typename T>
MSL_INLINE T __metal_simd_broadcast_first(T x, uint site = MSL_SITE) {
  uint mask = __msl_put(x, site);
  return __msl_get<T>((uint)__builtin_ctz(mask));
}
// Beyond the ends of the 32 lanes a lane keeps its own value. A lane that a smaller SIMD group does
// not have is an inactive one.
template <typename T>
MSL_INLINE T __metal_simd_shuffle_down(T x, ushort d, uint site = MSL_SITE) {
  __msl_put(x, site);
  uint from = __msl_lane() + d;
  return from < 32 ? __msl_get<T>(from) : x;
}
template <typename T>
MSL_INLINE T __metal_simd_shuffle_up(T x, ushort d, uint site = MSL_SITE) {
  __msl_put(x, site);
  uint lane = __msl_lane();
  return lane >= d ? __msl_get<T>(lane - d) : x;
}
template <typename T>
MSL_INLINE T __metal_simd_shuffle_rotate_down(T x, ushort d, uint site = MSL_SITE) {
  __msl_put(x, site);
  return __msl_get<T>((__msl_lane() + d) & 31);
}
template <typename T>
MSL_INLINE T __metal_simd_shuffle_rotate_up(T x, ushort d, uint site = MSL_SITE) {
  __msl_put(x, site);
  return __msl_get<T>((__msl_lane() - d) & 31);
}
template <typename T>
MSL_INLINE T __metal_simd_shuffle_xor(T x, ushort mask, uint site = MSL_SITE) {
  __msl_put(x, site);
  return __msl_get<T>(__msl_lane() ^ mask);
}
// Blocks of `width` lanes; what is shifted in comes from the other end of `fill`.
template <typename T>
MSL_INLINE T __msl_fill(T x, T fill, bool inside, uint from, uint site) {
  __msl_put(x, site);
  T own = __msl_get<T>(from);
  __msl_put(fill, site);
  T other = __msl_get<T>(from);
  return inside ? own : other;
}
template <typename T>
MSL_INLINE T __metal_simd_shuffle_and_fill_down(T x, T fill, ushort d, ushort width = 32,
                                                uint site = MSL_SITE) {
  uint lane = __msl_lane(), at = lane % width + d;
  return __msl_fill(x, fill, at < width, lane / width * width + at % width, site);
}
template <typename T>
MSL_INLINE T __metal_simd_shuffle_and_fill_up(T x, T fill, ushort d, ushort width = 32,
                                              uint site = MSL_SITE) {
  uint lane = __msl_lane();
  int at = (int)(lane % width) - (int)d;
  return __msl_fill(x, fill, at >= 0, lane / width * width + (uint)((at + width) % width), site);
}

namespace metal {

// Metal has these for integers up to 32 bits, half, float and their vectors. One overload a scalar
// type, so that a 64-bit, bool or bfloat argument is ambiguous and not converted.
template <typename T>
static constexpr constant bool __simd_type =
    sizeof(__elem<T>) <= 4 && __msl_kind<__elem<T>>::v >= __msl_signed &&
    __msl_kind<__elem<T>>::v <= __msl_float;
#define MSL_FOR_INTEGERS(M, name) \
  M(char, name) M(uchar, name) M(short, name) M(ushort, name) M(int, name) M(uint, name)
#define MSL_FOR_SCALARS(M, name) MSL_FOR_INTEGERS(M, name) M(half, name) M(float, name)
#define MSL_SIMD_VECTOR                                                          \
  template <typename T, enable_if_t<__is_vec<T> && __simd_type<T>, bool> = true> \
  MSL_INLINE T

#define MSL_SIMD_BODY_1(name) \
  name(T x, uint site = MSL_SITE) { return __metal_##name(x, site); }
#define MSL_SIMD_BODY_2(name) \
  name(T x, ushort k, uint site = MSL_SITE) { return __metal_##name(x, k, site); }
#define MSL_SIMD_1(R, name) \
  MSL_INLINE R name(R x, uint site = MSL_SITE) { return __metal_##name(x, site); }
#define MSL_SIMD_2(R, name) \
  MSL_INLINE R name(R x, ushort k, uint site = MSL_SITE) { return __metal_##name(x, k, site); }
#define MSL_SIMD_3(R, name)                                                      \
  MSL_INLINE R name(R x, R fill, ushort d, uint site = MSL_SITE) {               \
    return __metal_##name(x, fill, d, (ushort)32, site);                         \
  }                                                                              \
  MSL_INLINE R name(R x, R fill, ushort d, ushort width, uint site = MSL_SITE) { \
    return __metal_##name(x, fill, d, width, site);                              \
  }
#define MSL_SIMD_UNARY(name) MSL_FOR_SCALARS(MSL_SIMD_1, name) MSL_SIMD_VECTOR MSL_SIMD_BODY_1(name)
#define MSL_SIMD_BINARY(name) \
  MSL_FOR_SCALARS(MSL_SIMD_2, name) MSL_SIMD_VECTOR MSL_SIMD_BODY_2(name)
#define MSL_SIMD_TERNARY(name)                                        \
  MSL_FOR_SCALARS(MSL_SIMD_3, name)                                   \
  MSL_SIMD_VECTOR name(T x, T fill, ushort d, uint site = MSL_SITE) { \
    return __metal_##name(x, fill, d, (ushort)32, site);              \
  }
MSL_SIMD_UNARY(simd_sum)
MSL_SIMD_UNARY(simd_product)
MSL_SIMD_UNARY(simd_max)
MSL_SIMD_UNARY(simd_min)
MSL_SIMD_UNARY(simd_prefix_inclusive_sum)
MSL_SIMD_UNARY(simd_prefix_exclusive_sum)
MSL_SIMD_UNARY(simd_prefix_inclusive_product)
MSL_SIMD_UNARY(simd_prefix_exclusive_product)
MSL_SIMD_UNARY(simd_broadcast_first)
MSL_SIMD_BINARY(simd_shuffle)
MSL_SIMD_BINARY(simd_broadcast)
MSL_SIMD_BINARY(simd_shuffle_down)
MSL_SIMD_BINARY(simd_shuffle_up)
MSL_SIMD_BINARY(simd_shuffle_xor)
MSL_SIMD_BINARY(simd_shuffle_rotate_down)
MSL_SIMD_BINARY(simd_shuffle_rotate_up)
MSL_FOR_INTEGERS(MSL_SIMD_1, simd_and)
MSL_FOR_INTEGERS(MSL_SIMD_1, simd_or)
MSL_FOR_INTEGERS(MSL_SIMD_1, simd_xor)
MSL_SIMD_TERNARY(simd_shuffle_and_fill_down)
MSL_SIMD_TERNARY(simd_shuffle_and_fill_up)

class simd_vote {
 public:
  typedef ulong vote_t;
  explicit constexpr simd_vote(ulong x = 0) : v(x) {}
  operator ulong() const thread { return v; }
  bool all() const thread { return v == ((1ul << __msl_simd_width()) - 1); }
  bool any() const thread { return v != 0; }

 private:
  ulong v;
};

MSL_INLINE uint __msl_ballot(bool b, uint site) {
  uint mask = __msl_simd_put((ulong)b, 0, site), votes = 0;
  for (uint i = 0; i < 32; i++) {
    if ((mask >> i) & 1) votes |= (uint)(__msl_simd_lo(i) & 1) << i;
  }
  return votes;
}
MSL_INLINE simd_vote simd_ballot(bool b, uint site = MSL_SITE) {
  return simd_vote(__msl_ballot(b, site));
}
MSL_INLINE bool simd_any(bool b, uint site = MSL_SITE) { return __msl_ballot(b, site) != 0; }
MSL_INLINE bool simd_all(bool b, uint site = MSL_SITE) { return __msl_ballot(!b, site) == 0; }
MSL_INLINE bool simd_is_first(uint site = MSL_SITE) {
  return (uint)__builtin_ctz(__msl_simd_put(0, 0, site)) == __msl_lane();
}
MSL_INLINE simd_vote simd_active_threads_mask(uint site = MSL_SITE) {
  return simd_vote(__msl_simd_put(0, 0, site));
}

#define MSL_QUAD                                                  \
  template <typename T, enable_if_t<__simd_type<T>, bool> = true> \
  MSL_INLINE T
MSL_QUAD quad_shuffle(T x, ushort k, uint site = MSL_SITE) {
  return __metal_simd_shuffle(x, (ushort)((__msl_lane() & ~3u) | (k & 3)), site);
}
MSL_QUAD quad_broadcast(T x, ushort k, uint site = MSL_SITE) { return quad_shuffle(x, k, site); }
MSL_QUAD quad_shuffle_xor(T x, ushort k, uint site = MSL_SITE) {
  return quad_shuffle(x, (ushort)(__msl_lane() ^ k), site);
}
MSL_QUAD quad_shuffle_down(T x, ushort k, uint site = MSL_SITE) {
  uint lane = __msl_lane(), at = (lane & 3) + k;
  return __metal_simd_shuffle(x, (ushort)(at < 4 ? lane + k : lane), site);
}
MSL_QUAD quad_shuffle_up(T x, ushort k, uint site = MSL_SITE) {
  uint lane = __msl_lane();
  return __metal_simd_shuffle(x, (ushort)((lane & 3) >= k ? lane - k : lane), site);
}
#define MSL_QUAD_REDUCE(name, combine)                  \
  MSL_QUAD name(T x, uint site = MSL_SITE) {            \
    __msl_put(x, site);                                 \
    uint q = __msl_lane() & ~3u;                        \
    T a = __msl_get<T>(q), b = __msl_get<T>(q + 1);     \
    T c = __msl_get<T>(q + 2), d = __msl_get<T>(q + 3); \
    return combine;                                     \
  }
MSL_QUAD_REDUCE(quad_sum, (T)((T)(a + c) + (T)(b + d)))
MSL_QUAD_REDUCE(quad_max, max(max(a, b), max(c, d)))
MSL_QUAD_REDUCE(quad_min, min(min(a, b), min(c, d)))

}  // namespace metal
