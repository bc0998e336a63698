// The factors of dropout.
#include "tests/native/kernels.h"

namespace {

using namespace mlx_ncps;
using namespace kernel_tests;

// MLX's generator, value by value.
Numbers drawn(unsigned a, unsigned b, long n, unsigned long limit, float factor) {
  Numbers out(n);
  const long half = (n + 1) / 2;
  const unsigned keys[] = {a, b, a ^ b ^ 0x1bd11bdau};
  const int turns[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
  for (long i = 0; i < half; ++i) {
    unsigned x = unsigned(i), y = n % 2 && i == half - 1 ? 0 : unsigned(half + i);
    x += keys[0], y += keys[1];
    for (unsigned group = 0; group < 5; ++group) {
      for (int turn : turns[group % 2]) x += y, y = (y << turn | y >> (32 - turn)) ^ x;
      x += keys[(group + 1) % 3], y += keys[(group + 2) % 3] + group + 1;
    }
    out[i] = x < limit ? factor : 0;
    if (half + i < n) out[half + i] = y < limit ? factor : 0;
  }
  return out;
}

}  // namespace

NATIVE_TEST(factors_of_dropout_are_those_of_the_generator) {
  for_each_isa([] {
    for (long n : {0, 1, 2, 3, 31, 32, 33, 64, 127, 128, 129, 1000, 4097, 70001})
      for (unsigned long limit : {0ul, 1ul, 3000000000ul, (1ul << 32) - 1, 1ul << 32}) {
        const unsigned key[] = {unsigned(n) * 2654435761u, 77};
        const Exact out(n), longer(n + 200);  // masked stores are none of what sanitizers see
        const auto want = drawn(key[0], key[1], n, limit, 1.25f);
        for (const auto* to : {&out, &longer}) {
          kernels().draw_factors({key, n, limit, 1.25f, to->get()});
          for (long i = 0; i < n; ++i) CHECK(to->get()[i] == float(want[i]));
        }
        for (long i = n; i < n + 200; ++i) CHECK(std::isnan(longer.get()[i]));
      }
  });
}
