// Whether arrays are still the ones that were seen before.
#pragma once

#include <cstring>

#include "csrc/primitive.h"

namespace mlx_ncps {

// The array behind a tracer of mx.grad, which is a copy of it; else the array itself.
inline const mx::array& behind_copies(const mx::array& array) {
  const mx::array* a = &array;
  while (a->is_tracer() && a->has_primitive() && a->inputs().size() == 1 &&
         std::strcmp(a->primitive().name(), "Copy") == 0)
    a = &a->inputs()[0];
  return *a;
}

// Arrays as they were; held, so that no id is used again.
struct Seen {
  Arrays arrays;

  // Whether these are still the same values: no other arrays, none edited in place, no tracer of
  // mx.compile.
  bool are(const Arrays& now) const {
    if (now.size() != arrays.size()) return false;
    for (size_t i = 0; i < now.size(); ++i) {
      const mx::array& a = behind_copies(now[i]);
      if (a.id() != arrays[i].id() || a.is_tracer()) return false;
    }
    return true;
  }
};

}  // namespace mlx_ncps
