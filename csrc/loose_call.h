// A call computed at once whose arrays are not all as the kernels read them: not evaluated yet, in
// half precision, strided, [T, B, I], or with a mask (MATHS 5). They are evaluated, and copied.
#pragma once

#include "csrc/at_once.h"

namespace mlx_ncps {

// What a caller may give beside `Given`. Null arrays: nothing given.
struct More {
  const mx::array* mask = nullptr;        // [B, T] or [B, T, F], 0 where something is missing
  const mx::array* seen_value = nullptr;  // [B, F] of a mask of features: the last seen values,
  const mx::array* seen_time = nullptr;   // [B, F] and the time since then
  bool time_first = false;                // inputs, time spans and mask lie [T, B, ...]
};

class LooseCall {
 public:
  LooseCall(const StepCell& cell, const Given& given, const More& more, Form form);

  // By what is known without values. ASK: where a GPU beside it may have to be waited for, too.
  Readiness ready(bool no_gpu) const;
  // What must be evaluated before `read`.
  Arrays without_values() const;
  // False where the shapes don't fit: the graph's code says which.
  bool read();
  bool long_enough_to_unlock() const { return request_.long_enough_to_unlock(cell_); }
  void run();

  // As a graph gives them.
  mx::array output() const;
  mx::array h() const { return in_dtype_of_inputs(request_.h()); }
  bool one_array() const { return request_.one_array(); }
  std::optional<mx::array> c() const;
  // (last seen values, time since then) after a call with a mask of features.
  const std::optional<std::pair<mx::array, mx::array>>& seen() const { return seen_; }

 private:
  bool swapped(const mx::array& a) const { return time_first_ && a.ndim() > 1; }
  bool read_features(const mx::array& x, const mx::array& mask);
  bool begins_with_steps() const;
  mx::array in_dtype_of_inputs(const mx::array& a) const;
  std::vector<const std::optional<mx::array>*> arrays() const;

  // Copies: another thread may put other arrays in place of the caller's.
  std::optional<mx::array> x_, h_, c_, ts_, mask_, seen_value_, seen_time_;
  std::variant<std::monostate, double, const mx::array*> span_;
  const StepCell& cell_;
  const Form form_;
  bool from_zeros_, pair_, time_first_, of_features_ = false;
  bool given_ = true;  // whether all that should be arrays are

  Request request_;
  std::optional<mx::array> inputs_, h0_, c0_, spans_, rows_;  // as the kernels read them
  std::optional<std::pair<mx::array, mx::array>> seen_;
};

}  // namespace mlx_ncps
