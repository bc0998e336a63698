// The bindings of csrc/at_once.h and csrc/step_cell.h: Python objects as what they read, and back.
#include "csrc/step_cell.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <limits>

#include "csrc/at_once.h"
#include "csrc/cpu/interrupt.h"
#include "csrc/ltc.h"
#include "csrc/seen.h"
#include "src/bindings.h"
#include "src/places.h"

namespace nb = nanobind;
namespace mx = mlx::core;
using namespace nb::literals;

namespace {

using mlx_ncps::array_of;
using mlx_ncps::Arrays;
using mlx_ncps::CfcStage;
using mlx_ncps::Form;
using mlx_ncps::Given;
using mlx_ncps::Places;
using mlx_ncps::Readout;
using mlx_ncps::Request;
using mlx_ncps::StepCell;
using mlx_ncps::SynapseLists;

// Leaves all calls to the graph, whose code says why: a forked child in which MLX can't run.
bool declines = false;

decltype(Given::ts) timespans_of(nb::handle ts) {
  if (ts.is_none()) return std::monostate{};
  if (!PyFloat_Check(ts.ptr()) && (!PyLong_Check(ts.ptr()) || PyBool_Check(ts.ptr())))
    return array_of(ts);
  const double value = PyFloat_AsDouble(ts.ptr());
  if (!PyErr_Occurred()) return value;
  PyErr_Clear();  // more digits than a double holds
  return static_cast<const mx::array*>(nullptr);
}

Given given(nb::handle inputs, nb::handle initial, nb::handle timespans) {
  Given all{array_of(inputs), initial.is_none(), false, nullptr, nullptr, timespans_of(timespans)};
  if (all.from_zeros) return all;
  if (!nb::isinstance<nb::tuple>(initial)) return all.h = array_of(initial), all;
  const auto pair = nb::borrow<nb::tuple>(initial);
  all.pair = pair.size() == 2;
  if (all.pair) all.h = array_of(pair[0]), all.c = array_of(pair[1]);
  return all;
}

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

// (output, state) of a call that is to be computed now.
nb::object run(const StepCell& cell, Request& request) {
  const auto call = request.call(cell);
  if (request.long_enough_to_unlock(cell))
    run_unlocked(cell, call);
  else
    cell.run(call);
  const nb::object output = nb::cast(request.output());
  nb::object state = request.one_array() ? output : nb::cast(request.h());
  if (request.c()) state = nb::make_tuple(state, nb::cast(*request.c()));
  return nb::make_tuple(output, state);
}

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
    Request request;
    switch (request.read(cell, given(inputs, initial, timespans), Form(form), no_gpu)) {
      case mlx_ncps::GRAPH:
        return nb::none();
      case mlx_ncps::ASK:
        return nb::bool_(true);
      case mlx_ncps::NOW:
        break;
    }
    if (!cell.current() || !places || !places->unchanged(owner, front)) return nb::bool_(false);
    return run(cell, request);
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
  const auto all = given(inputs, initial, timespans);
  const auto cell = mlx_ncps::cell_for_call(all, stage, no_gpu);
  Request request;
  if (!cell || request.read(*cell, all, mlx_ncps::EVERY, no_gpu) != mlx_ncps::NOW)
    return nb::none();
  return run(*cell, request);
}

nb::object linear(nb::handle x, nb::handle weight, nb::handle bias) {
  const auto* b = array_of(bias);
  if (!b && !bias.is_none()) return nb::none();
  auto mapped = mlx_ncps::linear(array_of(x), array_of(weight), b);
  return mapped ? nb::cast(std::move(*mapped)) : nb::none();
}

void bind_values(nb::module_& m) {
  m.def(
      "has_values", [](nb::handle a) { return array_of(a) && mlx_ncps::values_of(*array_of(a)); },
      "a"_a.none(), "Whether an object is an evaluated, row-contiguous float32 array.");
  m.def(
      "lies_plain", [](const mx::array& a) { return a.is_available() && a.flags().row_contiguous; },
      "a"_a, "Whether an array is evaluated and row-contiguous.");
  m.def(
      "may_lack_values",
      [](nb::handle a) { return array_of(a) && mlx_ncps::may_lack_values(*array_of(a)); },
      "a"_a.none(), "Whether an object is an array that may depend on one without a value.");
  m.def(
      "largest",
      [](const mx::array& a) -> std::optional<float> {
        const float* values = mlx_ncps::values_of(mlx_ncps::behind_copies(a));
        if (!values) return std::nullopt;
        float most = 0.0f;
        for (size_t i = 0; i < a.size(); ++i) most = values[i] > most ? values[i] : most;
        return most;
      },
      "a"_a, "The largest element above 0, or 0; None of no evaluated, row-contiguous float32.");
  m.def("largest_rate", &mlx_ncps::largest_rate, "parameters"_a, "implicit"_a,
        "The largest rate of an LTC's neurons, or None where its arrays must be evaluated.");
  m.def("is_tracer", [](const mx::array& a) { return a.is_tracer(); }, "a"_a);
  m.def(
      "is_tracing",
      [] {
        mx::array probe(0.0f);
        probe.set_tracer(true);
        return probe.is_tracer();  // MLX exports no shorter way: only while something is traced
      },
      "Whether mx.compile, a gradient or mx.vmap traces a function in this thread.");
  m.def(
      "is_pending",
      [](const mx::array& a) {
        return a.status() == mx::array::Status::evaluated && !a.is_available();
      },
      "a"_a, "Whether MLX computes an array now.");
}

void bind_limits(nb::module_& m) {
  m.attr("STEP") = int(mlx_ncps::STEP);
  m.attr("EVERY") = int(mlx_ncps::EVERY);
  m.attr("LAST") = int(mlx_ncps::LAST);
  m.attr("BATCH") = int(mlx_ncps::BATCH);
  m.def(
      "ltc_step_work",
      [](long inputs, long units, int unfolds, bool memory, const std::string& solver) {
        return mlx_ncps::ltc_step_work(inputs, units, mlx_ncps::ltc_evaluations(unfolds, solver),
                                       memory);
      },
      "inputs"_a, "units"_a, "unfolds"_a, "memory"_a, "solver"_a = "semi_implicit");
  m.def("cfc_step_work", &mlx_ncps::cfc_step_work, "inputs"_a, "units"_a, "backbone"_a, "pure"_a,
        "memory"_a, "The work of a row and step of a packed cell.");
  m.def("left_to_graph", &mlx_ncps::left_to_graph, "B"_a, "T"_a, "work"_a, "beside_gpu"_a,
        "Why a call of so much work for each row and step is not computed at once, or nothing.");
  m.def(
      "fits",
      [](const mx::array& x, int form, long work, bool beside_gpu) {
        return mlx_ncps::fits(x, Form(form), work, beside_gpu);
      },
      "x"_a, "form"_a, "work"_a, "beside_gpu"_a,
      "Whether inputs lie in this form and are not too much, at so much work for each row and "
      "step.");
}

}  // namespace

void bind_step_cell(nb::module_& m) {
  bind_values(m);
  bind_limits(m);
  m.def("linear", &linear, "x"_a, "weight"_a, "bias"_a.none(),
        "A linear map computed at once, or None where something has no values yet.");
  m.def("decline_steps", [](bool on) { declines = on; }, "on"_a);
  nb::class_<Places>(m, "Places", "What a cell and its LSTM are made of now.")
      .def(nb::init<nb::handle, nb::handle>(), "cell"_a, "memory"_a.none())
      .def_prop_ro("complete", &Places::complete, "Whether the cell is not made of too much.");
  nb::class_<Readout>(m, "Readout")
      .def(nb::init<int, int, std::optional<mx::array>, std::optional<mx::array>>(), "first"_a,
           "count"_a, "w"_a.none() = nb::none(), "b"_a.none() = nb::none());
  nb::class_<CfcStage>(m, "CfcStage")
      .def(nb::init<Arrays, int, int, std::string, std::string, std::string>(), "weights"_a,
           nb::kw_only(), "inputs"_a, "layers"_a, "mode"_a, "activation"_a, "head_activation"_a);
  m.def("cfc_at_once", &cfc_at_once, "x"_a, "h0"_a, "ts"_a, "stage"_a, "no_gpu"_a,
        "(states, last state) of a short sequence, or None: a graph must compute it.");
  nb::class_<Stream>(m, "StepCell", nb::type_slots(stream_slots),
                     "A cell for streams of single steps.")
      .def_static(
          "ltc",
          [](const Arrays& folded, int unfolds, std::shared_ptr<const SynapseLists> synapses,
             const Arrays& memory, const Readout& readout, const Arrays& parameters,
             const std::string& solver, double longest_ts) {
            return new Stream{
                StepCell(folded, unfolds, solver, std::move(synapses), memory, readout, longest_ts),
                parameters,
                {}};
          },
          "folded"_a, "unfolds"_a, "synapses"_a.none(), "memory"_a, "readout"_a, "parameters"_a,
          "solver"_a = "semi_implicit", "longest_ts"_a = std::numeric_limits<double>::infinity())
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
