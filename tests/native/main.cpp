// Runs every native test, or those whose names contain the first argument; up to the first failure
// when there is a second one.
#include <cstdio>
#include <cstring>
#include <exception>

#include "tests/native/test.h"

int main(int argc, char** argv) {
  const char* wanted = argc > 1 ? argv[1] : "";
  int run = 0, failed = 0;
  for (const auto& test : native_tests()) {
    if (!std::strstr(test.name, wanted)) continue;
    ++run;
    try {
      test.body();
      std::printf("ok      %s\n", test.name);
    } catch (const std::exception& error) {
      ++failed;
      std::printf("FAILED  %s: %s\n", test.name, error.what());
    }
    std::fflush(stdout);
    if (failed && argc > 2) break;
  }
  std::printf("%d native tests, %d failed\n", run, failed);
  return run > 0 && failed == 0 ? 0 : 1;
}
