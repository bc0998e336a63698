// Conversions that clang calls for half and bfloat where the CPU has no instruction for them.
#include <cstring>

#include "state.h"

#if defined(__x86_64__)
namespace {

using mslsim::u32;
using u16 = std::uint16_t;

template <typename To, typename From>
To bits(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To r;
  std::memcpy(&r, &x, sizeof r);
  return r;
}

u16 half_bits(float x) {
  const u32 u = bits<u32>(x), sign = u >> 16 & 0x8000, magnitude = u & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;  // rounds to infinity
  if (magnitude < 0x38800000) {                       // subnormal: let the adder round
    return sign | (bits<u32>(bits<float>(magnitude) + 0.5f) - 0x3f000000);
  }
  return sign | (magnitude + 0xc8000fff + (magnitude >> 13 & 1)) >> 13;
}

float from_half_bits(u16 h) {
  const u32 sign = static_cast<u32>(h & 0x8000) << 16, magnitude = h & 0x7fff;
  u32 u;
  if (magnitude >= 0x7c00) {
    u = 0x7f800000 | magnitude << 13;
  } else if (magnitude >= 0x400) {
    u = (magnitude << 13) + 0x38000000;
  } else {
    u = bits<u32>(magnitude * 0x1p-24f);
  }
  return bits<float>(sign | u);
}

u16 bfloat_bits(float x) {
  const u32 u = bits<u32>(x);
  if ((u & 0x7fffffff) > 0x7f800000) return u >> 16 | 0x40;
  return (u + 0x7fff + (u >> 16 & 1)) >> 16;
}

}  // namespace

// A half or bfloat travels in the low bits of a float's register; as types, not all compilers have
// them.
MSLSIM_EXPORT float __truncsfhf2(float x) { return bits<float>(u32{half_bits(x)}); }
MSLSIM_EXPORT float __extendhfsf2(float x) {
  return from_half_bits(static_cast<u16>(bits<u32>(x)));
}
MSLSIM_EXPORT float __truncsfbf2(float x) { return bits<float>(u32{bfloat_bits(x)}); }
#endif
