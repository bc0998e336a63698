// The bindings of csrc/at_once.h and csrc/step_cell.h: Python objects as what they read, and back.
#include "csrc/step_cell.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <limits>

#include "csrc/any_dtype.h"
#include "csrc/at_once.h"
#include "csrc/cpu/interrupt.h"
#include "csrc/loose_call.h"
#include "csrc/ltc.h"
#include "csrc/program.h"
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
using mlx_ncps::FrontLayers;
using mlx_ncps::Given;
using mlx_ncps::LooseCall;
using mlx_ncps::More;
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

// Nothing where one of them is no array.
std::optional<More> more_of(nb::handle mask, nb::handle seen, bool time_first) {
  More more{array_of(mask), nullptr, nullptr, time_first};
  if (!mask.is_none() && !more.mask) return std::nullopt;
  if (seen.is_none()) return more;
  if (!nb::isinstance<nb::tuple>(seen)) return std::nullopt;
  const auto pair = nb::borrow<nb::tuple>(seen);
  if (pair.size() == 2) more.seen_value = array_of(pair[0]), more.seen_time = array_of(pair[1]);
  return more.seen_value && more.seen_time ? std::optional(more) : std::nullopt;
}

// Ends with KeyboardInterrupt where Ctrl-C is pressed.
template <typename F>
void run_unlocked(F run) {
  const mlx_ncps::WorkFor caller(mlx_ncps::before_work());
  try {
    const nb::gil_scoped_release unlocked;
    run();
  } catch (const mlx_ncps::Interrupted&) {
    raise_interrupt();
  }
}

// On the streams that the arrays were made for. Raises what mx.eval raises.
void evaluate(Arrays arrays) {
  if (arrays.empty()) return;
  {
    const nb::gil_scoped_release unlocked;
    mx::eval(std::move(arrays));
  }
  if (PyErr_CheckSignals() != 0) throw nb::python_error();
}

// (output, state), and with a mask of features what is known of each.
nb::object run_loose(LooseCall& call) {
  if (call.long_enough_to_unlock())
    run_unlocked([&] { call.run(); });
  else
    call.run();
  const nb::object output = nb::cast(call.output());
  nb::object state = call.one_array() ? output : nb::cast(call.h());
  if (const auto c = call.c()) state = nb::make_tuple(state, nb::cast(*c));
  if (!call.seen()) return nb::make_tuple(output, state);
  const auto& [value, time] = *call.seen();
  return nb::make_tuple(output, state, nb::make_tuple(nb::cast(value), nb::cast(time)));
}

// (output, state) of a call that is to be computed now.
nb::object run(const StepCell& cell, Request& request) {
  const auto call = request.call(cell);
  if (request.long_enough_to_unlock(cell))
    run_unlocked([&] { cell.run(call); });
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
    const auto all = given(inputs, initial, timespans);
    if (form == mlx_ncps::BATCH && all.from_zeros) return nb::none();  // a cell wants a state
    switch (request.read(cell, all, Form(form), no_gpu)) {
      case mlx_ncps::GRAPH:
        return step_loosely(owner, front, all, {}, form, no_gpu);
      case mlx_ncps::ASK:
        return nb::bool_(true);
      case mlx_ncps::NOW:
        break;
    }
    if (!unchanged(owner, front)) return nb::bool_(false);
    return run(cell, request);
  }

  bool unchanged(nb::handle owner, nb::handle front) const {
    return cell.current() && places && places->unchanged(owner, front);
  }

  // The same of a call that may have a mask, and arrays that are to be evaluated or copied.
  nb::object step_loosely(nb::handle owner, nb::handle front, const Given& all, const More& more,
                          int form, bool no_gpu) const {
    if (declines) return nb::none();
    LooseCall call(cell, all, more, Form(form));
    const auto ready = call.ready(no_gpu);
    if (ready == mlx_ncps::GRAPH) return nb::none();
    if (ready == mlx_ncps::ASK) return nb::bool_(true);
    if (!unchanged(owner, front)) return nb::bool_(false);
    evaluate(call.without_values());
    return call.read() ? run_loose(call) : nb::none();
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

// The same of arrays that are to be evaluated or converted.
std::optional<mx::array> linear_loosely(mx::array x, mx::array weight, const mx::array* bias) {
  std::optional<mx::array> b = bias ? std::optional(*bias) : std::nullopt;
  Arrays lazy;
  for (const auto* a : {&x, &weight, b ? &*b : nullptr}) {
    if (!a) continue;
    if (!mlx_ncps::is_float(a->dtype()) || a->ndim() > 3) return std::nullopt;
    if (mlx_ncps::has_any_values(*a)) continue;
    if (!mlx_ncps::can_evaluate(*a)) return std::nullopt;
    lazy.push_back(*a);
  }
  if (mlx_ncps::is_tracing()) return std::nullopt;
  evaluate(std::move(lazy));
  const mx::array from = mlx_ncps::plain(x), w = mlx_ncps::plain(weight);
  if (b) b = mlx_ncps::plain(*b);
  const auto mapped = mlx_ncps::linear(&from, &w, b ? &*b : nullptr);
  return mapped ? std::optional(mlx_ncps::in_dtype(*mapped, x.dtype())) : std::nullopt;
}

nb::object linear(nb::handle x, nb::handle weight, nb::handle bias) {
  const auto *from = array_of(x), *w = array_of(weight), *b = array_of(bias);
  if (!b && !bias.is_none()) return nb::none();
  auto mapped = mlx_ncps::linear(from, w, b);
  if (!mapped && from && w && !declines) mapped = linear_loosely(*from, *w, b);
  return mapped ? nb::cast(std::move(*mapped)) : nb::none();
}

}  // namespace

void bind_step_cell(nb::module_& m) {
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
  nb::class_<FrontLayers>(m, "FrontLayers", "Layers without a state in front of an LTC.")
      .def(nb::init<std::shared_ptr<const mlx_ncps::Program>, Arrays>(), "program"_a, "captured"_a);
  m.def("cfc_at_once", &cfc_at_once, "x"_a, "h0"_a, "ts"_a, "stage"_a, "no_gpu"_a,
        "(states, last state) of a short sequence, or None: a graph must compute it.");
  nb::class_<Stream>(m, "StepCell", nb::type_slots(stream_slots),
                     "A cell for streams of single steps.")
      .def_static(
          "ltc",
          [](const Arrays& folded, int unfolds, std::shared_ptr<const SynapseLists> synapses,
             const Arrays& memory, const Readout& readout, const Arrays& parameters,
             const std::string& solver, double longest_ts,
             const std::optional<FrontLayers>& front) {
            return new Stream{StepCell(folded, unfolds, solver, std::move(synapses), memory,
                                       readout, longest_ts, front),
                              parameters,
                              {}};
          },
          "folded"_a, "unfolds"_a, "synapses"_a.none(), "memory"_a, "readout"_a, "parameters"_a,
          "solver"_a = "semi_implicit", "longest_ts"_a = std::numeric_limits<double>::infinity(),
          "front"_a.none() = nb::none())
      .def_static(
          "cfc",
          [](const std::vector<CfcStage>& chain, const Arrays& memory, const Readout& readout,
             const Arrays& parameters) {
            return new Stream{StepCell(chain, memory, readout), parameters, {}};
          },
          "chain"_a, "memory"_a, "readout"_a, "parameters"_a)
      .def_static(
          "program",
          [](std::shared_ptr<const mlx_ncps::Program> program, const Arrays& captured,
             const Readout& readout, const Arrays& parameters) {
            return new Stream{StepCell(std::move(program), captured, readout), parameters, {}};
          },
          "program"_a, "captured"_a, "readout"_a, "parameters"_a)
      .def_prop_ro("work", [](const Stream& s) { return s.cell.work(); })
      .def("made_from", &Stream::made_from, "parameters"_a)
      .def("watch", &Stream::watch, "places"_a)
      .def("__call__", &Stream::step, "cell"_a, "memory"_a.none(), "x"_a.none(), "state"_a.none(),
           "ts"_a.none(), "form"_a, "no_gpu"_a = false,
           "(output, state) of one step; None: a graph must compute it; True: unless there is no "
           "GPU; False: the parameters have changed.")
      .def(
          "loosely",
          [](const Stream& s, nb::handle owner, nb::handle front, nb::handle x, nb::handle state,
             nb::handle ts, int form, bool no_gpu, nb::handle mask, nb::handle seen,
             bool time_first) {
            const auto more = more_of(mask, seen, time_first);
            if (!more) return nb::object(nb::none());
            return s.step_loosely(owner, front, given(x, state, ts), *more, form, no_gpu);
          },
          "cell"_a, "memory"_a.none(), "x"_a.none(), "state"_a.none(), "ts"_a.none(), "form"_a,
          "no_gpu"_a, "mask"_a.none(), "seen"_a.none(), "time_first"_a,
          "The same of a call with a mask or of inputs [T, B, I]; with a mask of features also "
          "(their last seen values, the time since then), as `seen` takes it.");
}
