// Whether masks and wirings that have no value while they are traced agree when the trace runs.
#pragma once

#include "csrc/primitive.h"

namespace mlx_ncps {

// What must hold among arrays laid out one after the other: element at[i] is not 0 exactly where
// one of its `width` elements of[i * width], ... is not 0. own: at[i] may also be not 0 alone.
struct Rule {
  std::vector<int> at, of;
  int width;
  bool own;

  bool operator==(const Rule&) const = default;
};

// `a` as it is, or NaN throughout where one of the rules doesn't hold.
mx::array guarded(const mx::array& a, const Arrays& arrays, const std::vector<Rule>& rules,
                  mx::StreamOrDevice s);

}  // namespace mlx_ncps
