// See at_once.h.
#include "csrc/at_once.h"

#include <cstring>
#include <limits>

namespace mlx_ncps {
namespace {

// Units of StepCell::work, some 30 to the ns.
constexpr long WORTH_UNLOCKING = 1 << 20;
constexpr long LONG_SEQUENCE = 1 << 24;  // a longer one runs while Python goes on
// Beside an Apple GPU, a round trip to which takes about as long as 2^22 of them on a few cores.
// Few rows don't fill it, so that they may take longer; 2^27 are some 4 ms.
constexpr long GPU_SEQUENCE = 1 << 21;
constexpr struct {
  long batch, work;
} GPU_STEPS[] = {{512, 1 << 22}, {64, 1 << 25}, {1, 1 << 27}};

bool one_step(Form form) { return form == STEP || form == BATCH; }

}  // namespace

bool only_reshapes(const mx::array& a) {
  if (!a.has_primitive() || a.inputs().size() != 1) return false;
  const char* name = a.primitive().name();
  for (const char* one : {"ExpandDims", "Squeeze", "Reshape", "Flatten", "Unflatten"})
    if (std::strcmp(name, one) == 0) return true;
  return false;
}

bool is_tracing() {
  mx::array probe(0.0f);
  probe.set_tracer(true);
  return probe.is_tracer();  // MLX exports no shorter way: only while something is traced
}

Extent extent_of(const mx::array& x, Form form, bool time_first) {
  const int rank = int(x.ndim()), batched = one_step(form) ? 2 : 3;
  if (rank > batched || rank < batched - (form != BATCH)) return {0, 0, false};
  if (rank < batched) return {1, one_step(form) ? 1 : x.shape(-2), true};
  const long steps = one_step(form) ? 1 : x.shape(1);
  return time_first ? Extent{steps, x.shape(0), false} : Extent{x.shape(0), steps, false};
}

const mx::array* holder_of(const mx::array& a) {
  if (a.dtype() != mx::float32 || a.is_tracer()) return nullptr;
  const mx::array* at = &a;
  while (!at->is_available() && only_reshapes(*at)) at = &at->inputs()[0];
  return at->is_available() && at->flags().row_contiguous ? at : nullptr;
}
const float* values_of(const mx::array& a) {
  const mx::array* holder = holder_of(a);
  return holder ? holder->data<float>() : nullptr;
}

bool may_lack_values(const mx::array& a) {
  std::vector<const mx::array*> left{&a};
  for (int seen = 0; !left.empty(); ++seen) {
    const mx::array* at = left.back();
    left.pop_back();
    if (!at->is_tracer()) continue;
    if (!at->has_primitive() || seen > 64) return true;
    for (const auto& input : at->inputs()) left.push_back(&input);
  }
  return false;
}

std::string left_to_graph(long B, long T, long row, bool beside_gpu) {
  const long work = saturated_product(saturated_product(B, T), row);
  const auto over = [&](size_t limit, const std::string& of) {
    return std::to_string(size_t(work)) + " units of work (some 30 to the ns), over " +
           std::to_string(limit) + " in " + of;
  };
  const long limit = beside_gpu ? GPU_SEQUENCE : LONG_SEQUENCE;
  if (T > 1) return work > limit ? over(limit, "a sequence") : "";
  for (const auto& large : GPU_STEPS)
    if (beside_gpu && B >= large.batch && work > large.work)
      return over(large.work,
                  large.batch == 1
                      ? "a step"
                      : "a step of " + std::to_string(size_t(large.batch)) + " rows or more");
  return "";
}

bool fits(const mx::array& x, Form form, long row, bool beside_gpu, bool time_first) {
  const auto [B, T, single] = extent_of(x, form, time_first);
  return B > 0 && T > 0 && left_to_graph(B, T, row, beside_gpu).empty();
}

bool Held::take(const mx::array* a) {
  const mx::array* holder = a ? holder_of(*a) : nullptr;
  if (!holder) return false;
  array = *holder, data = array->data<float>();
  return true;
}
bool Held::take(const mx::array* a, const mx::Shape& shape) {
  return a && a->shape() == shape && take(a);
}

Readiness Request::read(const StepCell& cell, const Given& given, Form form, bool no_gpu) {
  if (!x_.take(given.x)) return GRAPH;
  const auto [B, T, single] = extent_of(*given.x, form);
  if (B == 0 || T == 0 || given.x->shape(-1) != cell.inputs()) return GRAPH;
  form_ = form, B_ = B, T_ = T, single_ = single;
  if (!left_to_graph(B, T, cell.work(), false).empty()) return GRAPH;
  if (!no_gpu && !left_to_graph(B, T, cell.work(), true).empty()) return ASK;
  const int H = cell.units();
  state_shape_ = single ? mx::Shape{H} : mx::Shape{int(B), H};
  return read_states(cell, given) && read_timespans(given) && cell.takes(ts_) ? NOW : GRAPH;
}

bool Request::read_states(const StepCell& cell, const Given& given) {
  if (given.from_zeros) {
    zeros_.resize(B_ * cell.units());
    h0_.data = c0_.data = zeros_.data();
    return true;
  }
  if (given.pair != cell.has_memory()) return false;
  return h0_.take(given.h, state_shape_) && (!given.pair || c0_.take(given.c, state_shape_));
}

// Elapsed times [B, T], or nothing where the object is no such thing. A negative element gives NaN;
// a negative or NaN number is declined, for the graph's code raises it.
bool Request::read_timespans(const Given& given) {
  const double* number = std::get_if<double>(&given.ts);
  const bool none = std::holds_alternative<std::monostate>(given.ts);
  ts_.assign(B_ * T_, number ? float(*number) : 1.0f);
  if (none || number) return none || *number >= 0;
  const mx::array* a = std::get<const mx::array*>(given.ts);
  const float* values = a ? values_of(*a) : nullptr;
  if (!values) return false;
  const auto& shape = a->shape();
  const int b = int(B_), t = int(T_);
  bool each;
  if (one_step(form_))
    each = shape == mx::Shape{b} || shape == mx::Shape{b, 1};
  else if (single_)  // inputs [T, I] have no batch, and neither have their times
    each = shape == mx::Shape{t} || shape == mx::Shape{t, 1};
  else
    each = shape == mx::Shape{b, t} || shape == mx::Shape{b, t, 1};
  if (!each && !shape.empty() && (one_step(form_) || shape != mx::Shape{t})) return false;
  for (long i = 0; i < B_ * T_; ++i) {
    const float value = values[each ? i : shape.empty() ? 0 : i % T_];
    ts_[i] = value >= 0 ? value : std::numeric_limits<float>::quiet_NaN();
  }
  return true;
}

StepCell::Call Request::call(const StepCell& cell) {
  auto output_shape = state_shape_;
  output_shape.back() = cell.outputs();
  if (form_ == EVERY) output_shape.insert(output_shape.end() - 1, int(T_));
  h_ = empty_array("step", state_shape_);
  if (cell.has_memory()) c_ = empty_array("step", state_shape_);
  if (!cell.reads_state() || form_ == EVERY) output_ = empty_array("step", output_shape);
  return {B_,
          T_,
          x_.data,
          ts_.data(),
          h0_.data,
          c0_.data,
          h_->data<float>(),
          (c_ ? *c_ : *h_).data<float>(),
          output_ ? output_->data<float>() : nullptr,
          form_ == EVERY};
}

bool Request::long_enough_to_unlock(const StepCell& cell) const {
  return saturated_product(B_ * T_, cell.work()) > WORTH_UNLOCKING;
}

std::optional<StepCell> cell_for_call(const Given& given, const CfcStage& stage, bool no_gpu) {
  const auto* times = std::get_if<const mx::array*>(&given.ts);
  for (const mx::array* a : {given.x, given.h, times ? *times : nullptr})
    if (a && !values_of(*a)) return std::nullopt;
  if (!given.x || given.x->ndim() != 3) return std::nullopt;
  long work = 0;
  for (const auto& weight : stage.weights) {
    work += long(weight.size());
    if (!values_of(weight) || !weight.is_available()) return std::nullopt;  // a reshape, lazy
  }
  if (!fits(*given.x, EVERY, work, !no_gpu)) return std::nullopt;
  if (stage.layers < 0 || stage.weights.size() < 2 * size_t(stage.layers) + 2) return std::nullopt;
  const mx::Shape& bias = stage.weights[2 * stage.layers + 1].shape();
  const double* number = std::get_if<double>(&given.ts);
  const double ts = number ? *number : times ? -1.0 : 1.0;
  std::optional<float> only_ts;
  if (ts >= 0.0 && ts <= 1e30) only_ts = float(ts);  // as backends/fold.py: no infinite weight
  const Readout all{0, bias.empty() ? 0 : bias[0], {}, {}};
  return std::optional<StepCell>(std::in_place, std::vector<CfcStage>{stage}, MemoryWeights{}, all,
                                 only_ts);
}

std::optional<mx::array> linear(const mx::array* x, const mx::array* weight,
                                const mx::array* bias) {
  const float *from = x ? values_of(*x) : nullptr, *w = weight ? values_of(*weight) : nullptr;
  if (!from || !w || x->ndim() < 1 || weight->ndim() != 2 || x->shape(-1) != weight->shape(1))
    return std::nullopt;
  const int M = weight->shape(0), N = weight->shape(1);
  const float* b = bias ? values_of(*bias) : nullptr;
  if (bias && (!b || bias->shape() != mx::Shape{M})) return std::nullopt;
  auto shape = x->shape();
  shape.back() = M;
  mx::array out = empty_array("step", shape);
  const long rows = M > 0 ? long(out.size()) / M : 0;
  for (long r = 0; r < rows; ++r)
    for (int m = 0; m < M; ++m) {
      const float *row = from + r * N, *column = w + long(m) * N;
      float sums[8] = {};  // as many chains as two vectors of the baseline hold
      int n = 0;
      for (; n + 8 <= N; n += 8)
        for (int lane = 0; lane < 8; ++lane) sums[lane] += row[n + lane] * column[n + lane];
      float sum = b ? b[m] : 0.0f;
      for (; n < N; ++n) sum += row[n] * column[n];
      for (float part : sums) sum += part;
      out.data<float>()[r * M + m] = sum;
    }
  return out;
}

}  // namespace mlx_ncps
