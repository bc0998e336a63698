// Whether arrays are still the ones that were seen before.
#pragma once

#include <cstring>

#include "csrc/primitive.h"

namespace mlx_ncps {

// Arrays as they were; held, so that no id is used again.
struct Seen {
  Arrays arrays;

  // Whether these are still the same values: no other arrays, none edited in place, no tracer of
  // mx.compile. A tracer of mx.grad is a copy of the array that it stands for.
  bool are(const Arrays& now) const {
    if (now.size() != arrays.size()) return false;
    for (size_t i = 0; i < now.size(); ++i) {
      const mx::array* a = &now[i];
      while (a->is_tracer() && a->has_primitive() && a->inputs().size() == 1 &&
             std::strcmp(a->primitive().name(), "Copy") == 0)
        a = &a->inputs()[0];
      if (a->id() != arrays[i].id() || a->is_tracer()) return false;
    }
    return true;
  }
};

}  // namespace mlx_ncps
