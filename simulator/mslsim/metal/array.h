// metal::array, and os_log as something that says nothing.
#pragma once

namespace metal {

template <typename T, size_t N>
struct array {
  T __a[N];
  constexpr thread T& operator[](size_t i) thread { return __a[i]; }
  constexpr const thread T& operator[](size_t i) const thread { return __a[i]; }
  constexpr const constant T& operator[](size_t i) const constant { return __a[i]; }
  constexpr device T& operator[](size_t i) device { return __a[i]; }
  constexpr const device T& operator[](size_t i) const device { return __a[i]; }
  constexpr threadgroup T& operator[](size_t i) threadgroup { return __a[i]; }
  constexpr size_t size() const thread { return N; }
};

struct os_log {
  constexpr os_log(const constant char*, const constant char*) constant {}
  template <typename... A>
  void log_debug(const constant char*, A...) const thread {}
  template <typename... A>
  void log_debug(const constant char*, A...) const constant {}
};

}  // namespace metal
