// The binding of StepCell: a step of a stream or a short sequence on evaluated arrays, at once;
// everything else is declined, and left to the graph.
#include "csrc/step_cell.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <limits>

#include "csrc/cpu/interrupt.h"
#include "csrc/ltc.h"
#include "src/bindings.h"
#include "src/places.h"

namespace nb = nanobind;
namespace mx = mlx::core;
using namespace nb::literals;

namespace {

using mlx_ncps::array_of;
using mlx_ncps::Arrays;
using mlx_ncps::CfcStage;
using mlx_ncps::Places;
using mlx_ncps::Readout;
using mlx_ncps::saturated_product;
using mlx_ncps::StepCell;
using mlx_ncps::SynapseLists;

// Whether an operation only gives its input another shape, as x[None] does.
bool only_reshapes(const mx::array& a) {
  if (!a.has_primitive() || a.inputs().size() != 1) return false;
  const char* name = a.primitive().name();
  for (const char* one : {"ExpandDims", "Squeeze", "Reshape", "Flatten", "Unflatten"})
    if (std::strcmp(name, one) == 0) return true;
  return false;
}

// The array whose memory holds the values of `a` now as the kernels read them, float32 and
// row-contiguous; else null, as for a tracer, which has none.
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

// How a call lies: one step [B, I], or with STEP also [I]; or a sequence [B, T, I] or [T, I], which
// gives outputs for every step or for the last.
enum Form { STEP, EVERY, LAST, BATCH };

// Elapsed times [B, T], or nothing where the object is no such thing. A negative element gives NaN;
// a negative or NaN number is declined, for the graph's code raises it.
bool read_timespans(nb::handle ts, long B, long T, bool one_step, bool single,
                    std::vector<float>& out) {
  out.assign(B * T, 1.0f);
  if (ts.is_none()) return true;
  if (PyFloat_Check(ts.ptr()) || (PyLong_Check(ts.ptr()) && !PyBool_Check(ts.ptr()))) {
    const double value = PyFloat_AsDouble(ts.ptr());
    if (PyErr_Occurred()) {
      PyErr_Clear();
      return false;
    }
    out.assign(B * T, float(value));
    return value >= 0;
  }
  const mx::array* a = array_of(ts);
  const float* values = a ? values_of(*a) : nullptr;
  if (!values) return false;
  const auto& shape = a->shape();
  const int b = int(B), t = int(T);
  bool each;
  if (one_step)
    each = shape == mx::Shape{b} || shape == mx::Shape{b, 1};
  else if (single)  // inputs [T, I] have no batch, and neither have their times
    each = shape == mx::Shape{t} || shape == mx::Shape{t, 1};
  else
    each = shape == mx::Shape{b, t} || shape == mx::Shape{b, t, 1};
  if (!each && !shape.empty() && (one_step || shape != mx::Shape{t})) return false;
  for (long i = 0; i < B * T; ++i) {
    const float value = values[each ? i : shape.empty() ? 0 : i % T];
    out[i] = value >= 0 ? value : std::numeric_limits<float>::quiet_NaN();
  }
  return true;
}

// Whether an array may depend on one without a value, of mx.compile, an export or mx.vmap; no for
// a tracer of mx.grad alone, yes where that would take long to tell.
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

// Values of a call. Holds them: without Python's lock another thread may put another array in
// place of the object's, as `a[...] = ` does.
struct Held {
  std::optional<mx::array> array;
  const float* data = nullptr;

  bool take(const mx::array* a) {
    const mx::array* holder = a ? holder_of(*a) : nullptr;
    if (!holder) return false;
    array = *holder, data = array->data<float>();
    return true;
  }
  bool take_state(nb::handle object, const mx::Shape& shape) {
    const mx::array* a = array_of(object);
    return a && a->shape() == shape && take(a);
  }
};

// Ends with KeyboardInterrupt where Ctrl-C is pressed.
void run_unlocked(const StepCell& cell, const StepCell::Call& call) {
  const mlx_ncps::WorkFor caller(mlx_ncps::before_work());
  try {
    const nb::gil_scoped_release unlocked;
    cell.run(call);
  } catch (const mlx_ncps::Interrupted&) {
    raise_interrupt();
  }
}

// Leaves all calls to the graph, whose code says why: a forked child in which MLX can't run.
bool declines = false;

// Units of StepCell::work, some 30 to the ns.
constexpr long WORTH_UNLOCKING = 1 << 20;
constexpr long LONG_SEQUENCE = 1 << 24;  // a longer one runs while Python goes on
// Beside an Apple GPU, a round trip to which takes about as long as 2^22 of them on a few cores.
// Few rows don't fill it, so that they may take longer; 2^27 are some 4 ms.
constexpr long GPU_SEQUENCE = 1 << 21;
constexpr struct {
  long batch, work;
} GPU_STEPS[] = {{512, 1 << 22}, {64, 1 << 25}, {1, 1 << 27}};

// What a call of `row` units for each row and step exceeds, as a text, so that a graph must compute
// it; else "".
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

// Whether a call is computed at once; ASK: if it has no GPU beside it.
enum Readiness { GRAPH, ASK, NOW };

// What a call asks of a cell, as it lies in memory.
struct Request {
  Form form;
  bool no_gpu;  // known to be so
  long B, T;
  mx::Shape state_shape;  // [B, H] or [H]
  Held x, h, c;
  std::vector<float> ts, zeros;

  // GRAPH where only a graph can tell or compute.
  Readiness read(const StepCell& cell, nb::handle inputs, nb::handle initial,
                 nb::handle timespans) {
    const mx::array* a = array_of(inputs);
    const bool one_step = form == STEP || form == BATCH;
    const int batched = one_step ? 2 : 3, H = cell.units();
    if (!x.take(a) || int(a->ndim()) > batched || int(a->ndim()) < batched - (form != BATCH) ||
        a->shape(-1) != cell.inputs())
      return GRAPH;
    const bool single = int(a->ndim()) < batched;
    B = single ? 1 : a->shape(0), T = one_step ? 1 : a->shape(-2);
    if (B == 0 || T == 0 || !left_to_graph(B, T, cell.work(), false).empty()) return GRAPH;
    if (!no_gpu && !left_to_graph(B, T, cell.work(), true).empty()) return ASK;
    state_shape = single ? mx::Shape{H} : mx::Shape{int(B), H};
    const bool read =
        read_states(cell, initial) && read_timespans(timespans, B, T, one_step, single, ts);
    return read ? NOW : GRAPH;
  }

  bool read_states(const StepCell& cell, nb::handle initial) {
    if (initial.is_none()) {
      zeros.resize(B * cell.units());
      h.data = c.data = zeros.data();
      return true;
    }
    if (!cell.has_memory()) return h.take_state(initial, state_shape);
    if (!nb::isinstance<nb::tuple>(initial)) return false;
    const auto pair = nb::borrow<nb::tuple>(initial);
    return pair.size() == 2 && h.take_state(pair[0], state_shape) &&
           c.take_state(pair[1], state_shape);
  }

  // (output, state).
  nb::object run(const StepCell& cell) const {
    auto output_shape = state_shape;
    output_shape.back() = cell.outputs();
    if (form == EVERY) output_shape.insert(output_shape.end() - 1, int(T));
    mx::array next = mlx_ncps::empty_array("step", state_shape);
    mx::array next_c = cell.has_memory() ? mlx_ncps::empty_array("step", state_shape) : next;
    const bool same = cell.reads_state() && form != EVERY;
    mx::array output = same ? next : mlx_ncps::empty_array("step", output_shape);
    const StepCell::Call call{B,
                              T,
                              x.data,
                              ts.data(),
                              h.data,
                              c.data,
                              next.data<float>(),
                              next_c.data<float>(),
                              same ? nullptr : output.data<float>(),
                              form == EVERY};
    // Who lets go of the lock may wait for it as long as another thread keeps it, 5 ms.
    if (saturated_product(B * T, cell.work()) > WORTH_UNLOCKING)
      run_unlocked(cell, call);
    else
      cell.run(call);
    const nb::object first = nb::cast(std::move(output));
    nb::object state = same ? first : nb::cast(std::move(next));
    if (cell.has_memory()) state = nb::make_tuple(state, nb::cast(std::move(next_c)));
    return nb::make_tuple(first, state);
  }
};

// A StepCell, the raw parameters that it was made from, and where they lie.
struct Stream {
  StepCell cell;
  Arrays parameters;
  std::optional<Places> places;  // none: unknown

  void watch(Places now) {  // what it lets go of may call us: only when the new ones are in place
    std::optional<Places> old(std::move(now));
    std::swap(places, old);
  }
  // Whether packing these parameters would make the same.
  bool made_from(const nb::list& now) const {
    if (now.size() != parameters.size() || !cell.current()) return false;
    for (size_t i = 0; i < parameters.size(); ++i) {
      const mx::array* a = array_of(now[i]);
      if (!a || a->id() != parameters[i].id()) return false;
    }
    return true;
  }

  // (output, state); None: the graph's code must run this call; True: unless it is known that no
  // GPU would; False: what the parameters depend on may have changed.
  nb::object step(nb::handle owner, nb::handle front, nb::handle inputs, nb::handle initial,
                  nb::handle timespans, int form, bool no_gpu) const {
    if (declines) return nb::none();
    Request request{Form(form), no_gpu};
    switch (request.read(cell, inputs, initial, timespans)) {
      case GRAPH:
        return nb::none();
      case ASK:
        return nb::bool_(true);
      case NOW:
        break;
    }
    if (!cell.current() || !places || !places->unchanged(owner, front)) return nb::bool_(false);
    return request.run(cell);
  }
};

int traverse_stream(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  if (!nb::inst_ready(self)) return 0;
  const auto& places = nb::inst_ptr<Stream>(self)->places;
  return places ? places->traverse(visit, arg) : 0;
}

int clear_stream(PyObject* self) {
  if (!nb::inst_ready(self)) return 0;
  const std::optional<Places> gone = std::move(nb::inst_ptr<Stream>(self)->places);
  nb::inst_ptr<Stream>(self)->places.reset();
  return 0;
}

PyType_Slot stream_slots[] = {{Py_tp_traverse, reinterpret_cast<void*>(traverse_stream)},
                              {Py_tp_clear, reinterpret_cast<void*>(clear_stream)},
                              {0, nullptr}};

// A short sequence through a CfC that is packed for this call alone: (states [B, T, H], the last
// [B, H]), or None where a graph must compute it.
nb::object cfc_at_once(nb::handle inputs, nb::handle initial, nb::handle timespans,
                       const CfcStage& stage, bool no_gpu) {
  if (declines) return nb::none();
  const mx::array* x = array_of(inputs);
  for (const auto& given : {inputs, initial, timespans})
    if (array_of(given) && !values_of(*array_of(given))) return nb::none();
  if (!x || x->ndim() != 3) return nb::none();
  long work = 0;
  for (const auto& weight : stage.weights) {
    work += long(weight.size());
    if (!values_of(weight) || !weight.is_available()) return nb::none();  // a reshape, lazy itself
  }
  if (!left_to_graph(x->shape(0), x->shape(1), work, !no_gpu).empty()) return nb::none();
  if (stage.layers < 0 || stage.weights.size() < 2 * size_t(stage.layers) + 2) return nb::none();
  const mx::Shape& bias = stage.weights[2 * stage.layers + 1].shape();
  std::optional<float> only_ts;
  const double ts = timespans.is_none()              ? 1.0
                    : PyFloat_Check(timespans.ptr()) ? PyFloat_AsDouble(timespans.ptr())
                                                     : -1.0;
  if (ts >= 0.0 && ts <= 1e30) only_ts = float(ts);  // as backends/fold.py: no infinite weight
  const StepCell cell({stage}, {}, Readout{0, bias.empty() ? 0 : bias[0]}, only_ts);
  Request request{EVERY, no_gpu};
  return request.read(cell, inputs, initial, timespans) == NOW ? request.run(cell) : nb::none();
}

// x [..., N] times weight [M, N] transposed, plus bias [M] or None; None where something has no
// values yet, or other shapes.
nb::object linear(nb::handle inputs, nb::handle weights, nb::handle biases) {
  const mx::array *x = array_of(inputs), *w = array_of(weights), *b = array_of(biases);
  const float *from = x ? values_of(*x) : nullptr, *weight = w ? values_of(*w) : nullptr;
  if (!from || !weight || x->ndim() < 1 || w->ndim() != 2 || x->shape(-1) != w->shape(1))
    return nb::none();
  const int M = w->shape(0), N = w->shape(1);
  const float* bias = b ? values_of(*b) : nullptr;
  if (!biases.is_none() && (!bias || b->shape() != mx::Shape{M})) return nb::none();
  auto shape = x->shape();
  shape.back() = M;
  mx::array out = mlx_ncps::empty_array("step", shape);
  const long rows = M > 0 ? long(out.size()) / M : 0;
  for (long r = 0; r < rows; ++r)
    for (int m = 0; m < M; ++m) {
      const float *row = from + r * N, *column = weight + long(m) * N;
      float sums[8] = {};  // as many chains as two vectors of the baseline hold
      int n = 0;
      for (; n + 8 <= N; n += 8)
        for (int lane = 0; lane < 8; ++lane) sums[lane] += row[n + lane] * column[n + lane];
      float sum = bias ? bias[m] : 0.0f;
      for (; n < N; ++n) sum += row[n] * column[n];
      for (float part : sums) sum += part;
      out.data<float>()[r * M + m] = sum;
    }
  return nb::cast(std::move(out));
}

}  // namespace

void bind_step_cell(nb::module_& m) {
  m.def("linear", &linear, "x"_a, "weight"_a, "bias"_a.none(),
        "A linear map computed at once, or None where something has no values yet.");
  m.def(
      "has_values", [](nb::handle a) { return array_of(a) && values_of(*array_of(a)); },
      "a"_a.none(), "Whether an object is an evaluated, row-contiguous float32 array.");
  m.def("decline_steps", [](bool on) { declines = on; }, "on"_a);
  m.def(
      "lies_plain", [](const mx::array& a) { return a.is_available() && a.flags().row_contiguous; },
      "a"_a, "Whether an array is evaluated and row-contiguous.");
  m.def("may_lack_values", &may_lack_values, "a"_a);
  m.def("is_tracer", [](const mx::array& a) { return a.is_tracer(); }, "a"_a);
  m.def(
      "is_tracing",
      [] {
        mx::array probe(0.0f);
        probe.set_tracer(true);
        return probe.is_tracer();  // MLX exports no shorter way: only while something is traced
      },
      "Whether mx.compile, a gradient or mx.vmap traces a function in this thread.");
  nb::class_<Places>(m, "Places", "What a cell and its LSTM are made of now.")
      .def(nb::init<nb::handle, nb::handle>(), "cell"_a, "memory"_a.none())
      .def_prop_ro("complete", &Places::complete, "Whether the cell is not made of too much.");
  nb::class_<Readout>(m, "Readout")
      .def(nb::init<int, int, std::optional<mx::array>, std::optional<mx::array>>(), "first"_a,
           "count"_a, "w"_a.none() = nb::none(), "b"_a.none() = nb::none());
  nb::class_<CfcStage>(m, "CfcStage")
      .def(nb::init<Arrays, int, int, std::string, std::string, std::string>(), "weights"_a,
           nb::kw_only(), "inputs"_a, "layers"_a, "mode"_a, "activation"_a, "head_activation"_a);
  m.def("left_to_graph", &left_to_graph, "B"_a, "T"_a, "work"_a, "beside_gpu"_a,
        "Why a call of so much work for each row and step is not computed at once, or nothing.");
  m.def(
      "is_pending",
      [](const mx::array& a) {
        return a.status() == mx::array::Status::evaluated && !a.is_available();
      },
      "a"_a, "Whether MLX computes an array now.");
  m.def("cfc_at_once", &cfc_at_once, "x"_a, "h0"_a, "ts"_a, "stage"_a, "no_gpu"_a,
        "(states, last state) of a short sequence, or None: a graph must compute it.");
  nb::class_<Stream>(m, "StepCell", nb::type_slots(stream_slots),
                     "A cell for streams of single steps.")
      .def_static(
          "ltc",
          [](const Arrays& folded, int unfolds, std::shared_ptr<const SynapseLists> synapses,
             const Arrays& memory, const Readout& readout, const Arrays& parameters) {
            return new Stream{
                StepCell(folded, unfolds, std::move(synapses), memory, readout), parameters, {}};
          },
          "folded"_a, "unfolds"_a, "synapses"_a.none(), "memory"_a, "readout"_a, "parameters"_a)
      .def_static(
          "cfc",
          [](const std::vector<CfcStage>& chain, const Arrays& memory, const Readout& readout,
             const Arrays& parameters) {
            return new Stream{StepCell(chain, memory, readout), parameters, {}};
          },
          "chain"_a, "memory"_a, "readout"_a, "parameters"_a)
      .def_prop_ro("work", [](const Stream& s) { return s.cell.work(); })
      .def("made_from", &Stream::made_from, "parameters"_a)
      .def("watch", &Stream::watch, "places"_a)
      .def("__call__", &Stream::step, "cell"_a, "memory"_a.none(), "x"_a.none(), "state"_a.none(),
           "ts"_a.none(), "form"_a, "no_gpu"_a = false,
           "(output, state) of one step; None: a graph must compute it; True: unless there is no "
           "GPU; False: the parameters have changed.");
}
