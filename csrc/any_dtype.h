// Arrays as users have them, of any dtype and strides, as the float32 that the kernels read, and
// back.
#pragma once

#include "csrc/primitive.h"

namespace mlx_ncps {

bool is_float(mx::Dtype dtype);  // float32, float16 or bfloat16
bool is_integer(mx::Dtype dtype);
// The dtype of a product of the two, each a float.
mx::Dtype promoted(mx::Dtype a, mx::Dtype b);

// Whether an array has values now, or only gives another shape to one that has.
bool has_any_values(const mx::array& a);

// Whether this thread may evaluate an array: MLX computes it on the stream that it was made for,
// and only in the thread of that stream. Other streams than the thread's own may be another's.
bool can_evaluate(const mx::array& a);

// `a`, which has values and three sizes at most, as an evaluated, row-contiguous float32 array, its
// values rounded to `through` on the way. swapped: its first two axes change places.
mx::array plain(const mx::array& a, mx::Dtype through = mx::float32, bool swapped = false);
// The same of a mask of any real dtype: 1 where it is not 0, and 0.
mx::array plain_mask(const mx::array& a, bool swapped);

// An evaluated, row-contiguous float32 array in another dtype of floats.
mx::array in_dtype(const mx::array& a, mx::Dtype dtype);

float rounded(float value, mx::Dtype dtype);

// The same values in another shape.
mx::array reshaped(const mx::array& a, mx::Shape shape);

}  // namespace mlx_ncps
