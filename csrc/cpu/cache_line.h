// What two threads must not both write: a cache line, 128 bytes on Apple's arm64 and 64 elsewhere.
// All of arm64 takes 128.
#pragma once

namespace mlx_ncps {

#if defined(__aarch64__)
constexpr long CACHE_LINE = 128;
#else
constexpr long CACHE_LINE = 64;
#endif
constexpr long LINE_FLOATS = CACHE_LINE / 4;

}  // namespace mlx_ncps
