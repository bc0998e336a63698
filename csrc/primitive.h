// What the LTC and CfC primitives share: input preparation, output allocation, and the two ways to
// map a batch axis.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "mlx/mlx.h"
#include "mlx/primitives.h"

namespace mlx_ncps {

namespace mx = mlx::core;
using Arrays = std::vector<mx::array>;
using Shapes = std::vector<mx::Shape>;
using States = std::variant<Arrays, mx::array>;  // h of every step; with mixed memory h and c

// float32, as the kernels read it.
mx::array as_float(const mx::array& a, mx::Stream s);

// The first input of a fused call as it is, through a primitive whose name tells who meets it in
// mx.export_function what to do: MLX can't write our primitives, nor its own Contiguous, which
// would be named otherwise. Other calls than those of a tracer don't need it.
mx::array exportable_by_hint(const mx::array& a, bool traced, mx::Stream s);

bool any_traced(const Arrays& arrays);

// Throws std::invalid_argument "[op] name must be <wanted>, got <shape>."
void check_shape(const char* op, const char* name, const mx::array& a, const mx::Shape& wanted,
                 const char* symbols);

// The dtype that inputs and outputs share: float32, float16 or bfloat16; else
// std::invalid_argument.
void check_dtype(const char* op, const char* name, const mx::array& a);

// A count as a size of an array, which is an int; std::invalid_argument where it does not fit.
int size_of(const char* op, const char* name, long count);

// Throws std::invalid_argument for a float32 array of more bytes than 63 bits can count.
void check_bytes(const char* op, const mx::Shape& shape);

// a * b for positive numbers, or LONG_MAX.
long saturated_product(long a, long b);

// Memory for every output that has none (one of a mapped axis lies in the memory of all), or
// std::runtime_error; filled with NaN while poison_outputs(true) holds,
// so that tests see what a kernel leaves unwritten.
void allocate(const char* op, Arrays& outputs);
void poison_outputs(bool on);

// An array that is evaluated from the start, its values yet to be written; of 4 bytes each at most.
mx::array empty_array(const char* op, mx::Shape shape, mx::Dtype dtype = mx::float32);

// Marks the thread that runs a primitive's task. It must never ask for Python's lock, whose holder
// may wait for it: src/lock_guard.cpp checks that.
void enter_mlx_thread();
bool on_mlx_thread();

// Inputs of a primitive as its task reads them: what is not row-contiguous is copied by a task
// before. Throws where one is not float32: the primitive was built by something else than its own
// function.
Arrays row_contiguous(const char* op, const Arrays& inputs, mx::Stream s);

// Whether mx.compile(shapeless=True) traces on this thread: the shapes seen now are not those of
// every call to come.
bool in_shapeless_trace();

// Throws std::invalid_argument where `what` bakes the shapes of a shapeless trace in.
void refuse_shapeless(const char* op, const char* what);

// What a primitive without forward-mode or second derivatives answers.
[[noreturn]] void no_derivative(const char* op, const char* what);

using Mapped = std::pair<Arrays, std::vector<int>>;
using Call = std::function<Arrays(const Arrays&)>;

// Calls once per element of the mapped axis and stacks the results along axis 0.
Mapped map_by_loop(const char* op, const Call& call, const Arrays& inputs,
                   const std::vector<int>& axes, mx::Stream s);

// Where only the first `count` inputs, whose axis 0 is the batch, are mapped: one call with the
// mapped axis folded into the batch. batch_axis[i] is the batch axis of output i.
Mapped map_by_batch(const char* op, const Call& call, Arrays inputs, std::vector<int> axes,
                    int count, const std::vector<int>& batch_axis, mx::Stream s);
int mapped_size(const Arrays& inputs, const std::vector<int>& axes);
bool only_first_mapped(const std::vector<int>& axes, int count);

}  // namespace mlx_ncps
