// The native tests' own test framework: NATIVE_TEST registers a test, CHECK fails it.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

struct NativeTest {
  const char* name;
  void (*body)();
};

inline std::vector<NativeTest>& native_tests() {
  static std::vector<NativeTest> tests;
  return tests;
}

#define NATIVE_TEST(name)                                     \
  static void name();                                         \
  [[maybe_unused]] static const bool name##_registered = [] { \
    native_tests().push_back({#name, name});                  \
    return true;                                              \
  }();                                                        \
  static void name()

// Throws, so call it on the test's own thread.
#define CHECK(condition)                                                                \
  do {                                                                                  \
    if (!(condition)) {                                                                 \
      throw std::runtime_error(std::string(__FILE__) + ":" + std::to_string(__LINE__) + \
                               ": " #condition);                                        \
    }                                                                                   \
  } while (false)
