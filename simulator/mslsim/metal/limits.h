// <metal_limits>
#pragma once

namespace metal {

template <typename T>
struct numeric_limits;

#define MSL_INTEGER_LIMITS(T, lowest_value, max_value, bits) \
  template <>                                                \
  struct numeric_limits<T> {                                 \
    static constexpr constant bool is_specialized = true;    \
    static constexpr constant bool is_integer = true;        \
    static constexpr constant int digits = bits;             \
    static constexpr T max() { return max_value; }           \
    static constexpr T min() { return lowest_value; }        \
    static constexpr T lowest() { return lowest_value; }     \
    static constexpr T infinity() { return 0; }              \
    static constexpr T quiet_NaN() { return 0; }             \
  };
MSL_INTEGER_LIMITS(bool, false, true, 1)
MSL_INTEGER_LIMITS(char, -128, 127, 7)
MSL_INTEGER_LIMITS(signed char, -128, 127, 7)
MSL_INTEGER_LIMITS(uchar, 0, 255, 8)
MSL_INTEGER_LIMITS(short, -32768, 32767, 15)
MSL_INTEGER_LIMITS(ushort, 0, 65535, 16)
MSL_INTEGER_LIMITS(int, INT_MIN, INT_MAX, 31)
MSL_INTEGER_LIMITS(uint, 0, UINT_MAX, 32)
MSL_INTEGER_LIMITS(long, -LONG_MAX - 1, LONG_MAX, 63)
MSL_INTEGER_LIMITS(ulong, 0, ULONG_MAX, 64)

// The numbers are bit patterns of type U.
#define MSL_FLOAT_LIMITS(T, U, max_bits, min_bits, epsilon_bits, inf_bits, nan_bits, bits) \
  template <>                                                                              \
  struct numeric_limits<T> {                                                               \
    static constexpr constant bool is_specialized = true;                                  \
    static constexpr constant bool is_integer = false;                                     \
    static constexpr constant int digits = bits;                                           \
    static constexpr T max() { return __builtin_bit_cast(T, (U)max_bits); }                \
    static constexpr T min() { return __builtin_bit_cast(T, (U)min_bits); }                \
    static constexpr T lowest() { return -__builtin_bit_cast(T, (U)max_bits); }            \
    static constexpr T epsilon() { return __builtin_bit_cast(T, (U)epsilon_bits); }        \
    static constexpr T infinity() { return __builtin_bit_cast(T, (U)inf_bits); }           \
    static constexpr T quiet_NaN() { return __builtin_bit_cast(T, (U)nan_bits); }          \
  };
MSL_FLOAT_LIMITS(float, uint, 0x7f7fffff, 0x00800000, 0x34000000, 0x7f800000, 0x7fc00000, 24)
MSL_FLOAT_LIMITS(half, ushort, 0x7bff, 0x0400, 0x1400, 0x7c00, 0x7e00, 11)
MSL_FLOAT_LIMITS(bfloat, ushort, 0x7f7f, 0x0080, 0x3c00, 0x7f80, 0x7fc0, 8)

}  // namespace metal
