// Findings as text: one line each, the same place only once.
#include <cstdarg>
#include <cstdio>

#include "state.h"

namespace mslsim {
namespace {
constexpr size_t kMostReports = 200;
}

u32 this_thread() {
  return static_cast<u32>(worker->threadgroup * dispatch->group_size + worker->current->local_id +
                          1);
}

std::string thread_name(u32 thread) {
  const u64 group = (thread - 1) / dispatch->group_size;
  const u64* n = dispatch->groups;
  char text[120];
  std::snprintf(text, sizeof text, "thread %u of threadgroup (%llu,%llu,%llu)",
                (thread - 1) % dispatch->group_size, static_cast<unsigned long long>(group % n[0]),
                static_cast<unsigned long long>(group / n[0] % n[1]),
                static_cast<unsigned long long>(group / n[0] / n[1]));
  return text;
}

void report(const char* kind, u64 pc, u64 other_pc, const char* format, ...) {
  char text[900], head[160];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  const u64 base = dispatch->launch->object_base;
  std::snprintf(head, sizeof head, "%s\t%llx\t%llx\t", kind,
                static_cast<unsigned long long>(pc ? pc - base : 0),
                static_cast<unsigned long long>(other_pc ? other_pc - base : 0));
  std::lock_guard<std::mutex> lock(dispatch->report_lock);
  const std::string key = pc ? head : std::string(head) + text;
  if (dispatch->reported.size() < kMostReports && dispatch->reported[key]++ == 0) {
    dispatch->report += std::string(head) + text + "\n";
  }
}

}  // namespace mslsim
