// Computed at once: a step of a stream or a short sequence on evaluated arrays, on the calling
// thread, without a graph. What is no such call is declined, and left to the graph, whose code says
// what is wrong with it.
#pragma once

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "csrc/step_cell.h"

namespace mlx_ncps {

// How a call lies: one step [B, I], or with STEP also [I]; or a sequence [B, T, I] or [T, I], which
// gives outputs for every step or for the last.
enum Form { STEP, EVERY, LAST, BATCH };

// The array whose memory holds the values of `a` now as the kernels read them, float32 and
// row-contiguous; else null, as for a tracer, which has none.
const mx::array* holder_of(const mx::array& a);
const float* values_of(const mx::array& a);

// Whether an operation only gives its input another shape, as x[None] does.
bool only_reshapes(const mx::array& a);

// Whether mx.compile, an export, a gradient or mx.vmap traces a function in this thread.
bool is_tracing();

// Whether an array may depend on one without a value, of mx.compile, an export or mx.vmap; no for
// a tracer of mx.grad alone, yes where that would take long to tell.
bool may_lack_values(const mx::array& a);

// Why a call of `row` units of work for each row and step (StepCell::work) is left to a graph, as a
// text; "" where it is computed at once.
std::string left_to_graph(long B, long T, long row, bool beside_gpu);

// The same of inputs in a form: true where they hold something, and not too much.
bool fits(const mx::array& x, Form form, long row, bool beside_gpu, bool time_first = false);

// Rows and steps of inputs, B = 0 where they have another rank. time_first: they lie [T, B, I].
struct Extent {
  long B, T;
  bool single;  // without a batch
};
Extent extent_of(const mx::array& x, Form form, bool time_first = false);

// What a caller gives. Null arrays: something that is none, which declines the call.
struct Given {
  const mx::array* x;
  bool from_zeros, pair;  // the state: nothing, or (h, c)
  const mx::array *h, *c;
  std::variant<std::monostate, double, const mx::array*> ts;  // nothing: 1
};

// Whether a call is computed at once; ASK: if it has no GPU beside it.
enum Readiness { GRAPH, ASK, NOW };

// Values of a call. Holds them: without Python's lock another thread may put another array in
// place of the object's, as `a[...] = ` does.
struct Held {
  std::optional<mx::array> array;
  const float* data = nullptr;

  bool take(const mx::array* a);
  bool take(const mx::array* a, const mx::Shape& shape);
};

// A call as the kernels read it, and its results.
class Request {
 public:
  // GRAPH where only a graph can tell or compute. no_gpu: known to be so.
  Readiness read(const StepCell& cell, const Given& given, Form form, bool no_gpu);

  const std::vector<float>& timespans() const { return ts_; }  // [B, T]

  // What a call that is NOW writes: makes the results' arrays.
  StepCell::Call call(const StepCell& cell);
  const mx::array& output() const { return output_ ? *output_ : *h_; }
  bool one_array() const { return !output_; }  // for output and state
  const mx::array& h() const { return *h_; }
  const std::optional<mx::array>& c() const { return c_; }
  // Whether it runs so long that Python should go on meanwhile. Who lets go of the lock may wait
  // for it as long as another thread keeps it, 5 ms.
  bool long_enough_to_unlock(const StepCell& cell) const;

 private:
  bool read_states(const StepCell& cell, const Given& given);
  bool read_timespans(const Given& given);

  Form form_;
  bool single_;  // inputs without a batch
  long B_, T_;
  mx::Shape state_shape_;  // [B, H] or [H]
  Held x_, h0_, c0_;
  std::vector<float> ts_, zeros_;
  std::optional<mx::array> output_, h_, c_;
};

// A cell for one call of a short sequence alone, whose weights may not be evaluated by it; nothing
// where a graph must compute it.
std::optional<StepCell> cell_for_call(const Given& given, const CfcStage& stage, bool no_gpu);

// x [..., N] times weight [M, N] transposed, plus bias [M] or null; nothing where something has no
// values yet, or other shapes.
std::optional<mx::array> linear(const mx::array* x, const mx::array* weight, const mx::array* bias);

}  // namespace mlx_ncps
