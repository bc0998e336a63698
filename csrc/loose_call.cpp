// See loose_call.h.
#include "csrc/loose_call.h"

#include <algorithm>

#include "csrc/any_dtype.h"

namespace mlx_ncps {
namespace {

std::optional<mx::array> copy_of(const mx::array* a) {
  return a ? std::optional(*a) : std::nullopt;
}

// Steps whose mask [B, T] is 0 keep state and output. call.x and call.ts of them are never read. A
// cell with an output of its own wants no first step that is left out.
void run_masked(const StepCell& cell, const StepCell::Call& call, const float* mask) {
  const long B = call.B, T = call.T, I = cell.inputs(), H = cell.units(), O = cell.outputs();
  const bool own = cell.has_output();
  std::vector<float> x(B * I), ts(B), h(B * H), c(cell.has_memory() ? B * H : 0), output(B * O),
      last_output(own ? B * O : 0);
  std::copy_n(call.h, B * H, call.last_h);
  if (!c.empty()) std::copy_n(call.c, B * H, call.last_c);
  auto step = call;
  step.T = 1, step.every = false, step.output = own ? output.data() : nullptr;
  step.x = x.data(), step.ts = ts.data(), step.last_h = h.data();
  step.last_c = c.empty() ? h.data() : c.data();
  step.h = call.last_h, step.c = call.last_c;
  for (long t = 0; t < T; ++t) {
    bool any = false;
    for (long b = 0; b < B; ++b) {
      const bool seen = mask[b * T + t] != 0;
      any = any || seen, ts[b] = seen ? call.ts[b * T + t] : 1.0f;
      for (long i = 0; i < I; ++i) x[b * I + i] = seen ? call.x[(b * T + t) * I + i] : 0.0f;
    }
    if (any) cell.run(step);
    for (long b = 0; b < B; ++b) {
      if (mask[b * T + t] == 0) continue;
      std::copy_n(&h[b * H], H, call.last_h + b * H);
      if (!c.empty()) std::copy_n(&c[b * H], H, call.last_c + b * H);
      if (own) std::copy_n(&output[b * O], O, &last_output[b * O]);
    }
    if (!call.output || !(call.every || t + 1 == T)) continue;
    if (!own) cell.read_out(call.last_h, B, call.dtype, output.data());
    const auto& now = own ? last_output : output;
    for (long b = 0; b < B; ++b)
      std::copy_n(&now[b * O], O, call.output + (call.every ? b * T + t : b) * O);
  }
}

}  // namespace

LooseCall::LooseCall(const StepCell& cell, const Given& given, const More& more, Form form)
    : x_(copy_of(given.x)),
      h_(copy_of(given.h)),
      c_(copy_of(given.c)),
      mask_(copy_of(more.mask)),
      seen_value_(copy_of(more.seen_value)),
      seen_time_(copy_of(more.seen_time)),
      span_(given.ts),
      cell_(cell),
      form_(form),
      from_zeros_(given.from_zeros),
      pair_(given.pair),
      time_first_(more.time_first && given.x && given.x->ndim() == 3) {
  if (const auto* ts = std::get_if<const mx::array*>(&span_)) {
    ts_ = copy_of(*ts);
    given_ = ts_.has_value();
  }
  if (!from_zeros_) given_ = given_ && h_ && pair_ == c_.has_value();
  of_features_ = x_ && mask_ && mask_->ndim() == x_->ndim();
}

std::vector<const std::optional<mx::array>*> LooseCall::arrays() const {
  return {&x_, &h_, &c_, &ts_, &mask_, &seen_value_, &seen_time_};
}

Readiness LooseCall::ready(bool no_gpu) const {
  if (!given_ || !x_ || !is_float(x_->dtype()) || is_tracing()) return GRAPH;
  for (const auto* a : arrays())
    if (*a && ((*a)->ndim() > 3 || (*a)->dtype() == mx::complex64)) return GRAPH;
  if ((h_ && !is_float(h_->dtype())) || (c_ && !is_float(c_->dtype()))) return GRAPH;
  if (ts_ && !is_float(ts_->dtype()) && !is_integer(ts_->dtype())) return GRAPH;
  if (!from_zeros_ && pair_ != cell_.has_memory()) return GRAPH;
  const auto [B, T, single] = extent_of(*x_, form_, time_first_);
  if (B == 0 || T == 0) return GRAPH;
  const int features = x_->shape(-1), width = cell_.inputs();
  if (of_features_ ? width != 2 * features && width != 3 * features : width != features)
    return GRAPH;
  if (!left_to_graph(B, T, cell_.work(), false).empty()) return GRAPH;
  const Arrays lazy = without_values();
  if (!std::all_of(lazy.begin(), lazy.end(), can_evaluate)) return GRAPH;
  if (no_gpu) return NOW;
  const bool waits = T > 1 && !lazy.empty();
  return waits || !left_to_graph(B, T, cell_.work(), true).empty() ? ASK : NOW;
}

Arrays LooseCall::without_values() const {
  Arrays lazy;
  for (const auto* a : arrays())
    if (*a && !has_any_values(**a)) lazy.push_back(**a);
  return lazy;
}

// A layer takes the state in the dtype of its inputs, a cell as it is.
bool LooseCall::read() {
  const auto dtype = form_ == BATCH ? mx::float32 : x_->dtype();
  const bool turned = time_first_;
  inputs_ = plain(*x_, mx::float32, turned);
  Given given{&*inputs_, from_zeros_, pair_, nullptr, nullptr, span_};
  if (h_ && !from_zeros_) h0_ = plain(*h_, dtype), given.h = &*h0_;
  if (c_ && !from_zeros_) c0_ = plain(*c_, dtype), given.c = &*c0_;
  if (ts_) spans_ = plain(*ts_, mx::float32, swapped(*ts_)), given.ts = &*spans_;
  const auto shape = x_->shape();
  if (mask_ && mask_->shape() != (of_features_ ? shape : mx::Shape(shape.begin(), shape.end() - 1)))
    return false;
  const mx::array values = *inputs_;
  if (of_features_) {
    auto wide = values.shape();
    wide.back() = cell_.inputs();
    inputs_ = empty_array("step", wide), given.x = &*inputs_;
  }
  if (request_.read(cell_, given, form_, true) != NOW) return false;
  if (!mask_) return true;
  const mx::array mask = plain_mask(*mask_, swapped(*mask_));
  if (of_features_) {
    if (!read_features(values, mask)) return false;
  } else {
    rows_ = mask;
  }
  return !cell_.has_output() || begins_with_steps();
}

// Whether no row's first step is left out.
bool LooseCall::begins_with_steps() const {
  const float* rows = rows_->data<float>();
  const long steps = rows_->shape(-1);
  for (long at = 0; at < long(rows_->size()); at += steps)
    if (rows[at] == 0) return false;
  return true;
}

// Fills the inputs [B, T, W] with [values, mask] or [values, time since update, mask].
bool LooseCall::read_features(const mx::array& x, const mx::array& mask) {
  const int F = x.shape(-1), W = cell_.inputs();
  const long steps = long(x.size()) / F;  // B T
  const int T = x.shape(-2), B = int(steps / T);
  const mx::Shape one_each{B, F};
  const auto dtype = x_->dtype();
  mx::array value = empty_array("step", one_each), time = empty_array("step", one_each);
  if (seen_value_) {
    if (!seen_time_ || seen_value_->shape() != one_each || seen_time_->shape() != one_each)
      return false;
    value = plain(*seen_value_, dtype), time = plain(*seen_time_);
  } else {
    std::fill_n(value.data<float>(), B * F, 0.0f), std::fill_n(time.data<float>(), B * F, 0.0f);
  }
  rows_ = empty_array("step", {B, T});
  const float *from = x.data<float>(), *known = mask.data<float>();
  for (long b = 0; b < B; ++b)
    for (long t = 0; t < T; ++t) {
      const long at = b * T + t;
      float *v = value.data<float>() + b * F, *since = time.data<float>() + b * F, any = 0.0f;
      float* to = inputs_->data<float>() + at * W;
      for (int f = 0; f < F; ++f) {
        const bool seen = known[at * F + f] != 0;
        if (seen) v[f] = from[at * F + f], any = 1.0f;
        since[f] = seen ? 0.0f : since[f] + request_.timespans()[at];
        to[f] = v[f], to[W - F + f] = seen ? 1.0f : 0.0f;
        if (W == 3 * F) to[F + f] = rounded(since[f], dtype);
      }
      rows_->data<float>()[at] = any;
    }
  seen_.emplace(in_dtype(value, dtype), time);
  return true;
}

void LooseCall::run() {
  auto call = request_.call(cell_);
  call.dtype = x_->dtype();
  if (rows_)
    run_masked(cell_, call, rows_->data<float>());
  else
    cell_.run(call);
}

mx::array LooseCall::in_dtype_of_inputs(const mx::array& a) const {
  return in_dtype(a, x_->dtype());
}

mx::array LooseCall::output() const {
  const auto& all = request_.output();
  const bool turned = time_first_ && form_ == EVERY;
  return in_dtype_of_inputs(turned ? plain(all, mx::float32, true) : all);
}

std::optional<mx::array> LooseCall::c() const {
  const auto& c = request_.c();
  return c ? std::optional(in_dtype_of_inputs(*c)) : std::nullopt;
}

}  // namespace mlx_ncps
