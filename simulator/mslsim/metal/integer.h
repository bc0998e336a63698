// <metal_integer>
#pragma once

namespace metal {

#define MSL_BIT_FUNCTIONS(T, U)                                                                   \
  MSL_INLINE T popcount(T x) { return (T)__builtin_popcountll((ulong)(U)x); }                     \
  MSL_INLINE T clz(T x) {                                                                         \
    const int bits = sizeof(T) * 8;                                                               \
    return x == 0 ? (T)bits : (T)(__builtin_clzll((ulong)(U)x) - (64 - bits));                    \
  }                                                                                               \
  MSL_INLINE T ctz(T x) { return x == 0 ? (T)(sizeof(T) * 8) : (T)__builtin_ctzll((ulong)(U)x); } \
  MSL_INLINE T reverse_bits(T x) {                                                                \
    const int bits = sizeof(T) * 8;                                                               \
    U u = (U)x, r = 0;                                                                            \
    for (int i = 0; i < bits; i++) r |= ((u >> i) & 1) << (bits - 1 - i);                         \
    return (T)r;                                                                                  \
  }                                                                                               \
  MSL_INLINE T rotate(T x, T n) {                                                                 \
    const uint bits = sizeof(T) * 8, k = (uint)n & (bits - 1);                                    \
    U u = (U)x;                                                                                   \
    return (T)(k ? (U)((U)(u << k) | (U)(u >> (bits - k))) : u);                                  \
  }                                                                                               \
  MSL_INLINE U absdiff(T a, T b) { return a > b ? (U)a - (U)b : (U)b - (U)a; }
MSL_BIT_FUNCTIONS(char, uchar)
MSL_BIT_FUNCTIONS(uchar, uchar)
MSL_BIT_FUNCTIONS(short, ushort)
MSL_BIT_FUNCTIONS(ushort, ushort)
MSL_BIT_FUNCTIONS(int, uint)
MSL_BIT_FUNCTIONS(uint, uint)
MSL_BIT_FUNCTIONS(long, ulong)
MSL_BIT_FUNCTIONS(ulong, ulong)

MSL_INLINE int mulhi(int a, int b) { return (int)(((long)a * b) >> 32); }
MSL_INLINE uint mulhi(uint a, uint b) { return (uint)(((ulong)a * b) >> 32); }
MSL_INLINE ulong mulhi(ulong a, ulong b) { return (ulong)(((unsigned __int128)a * b) >> 64); }
MSL_INLINE int mad24(int a, int b, int c) { return a * b + c; }
MSL_INLINE uint mad24(uint a, uint b, uint c) { return a * b + c; }

}  // namespace metal
