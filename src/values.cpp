// What an array stands for, and which calls are computed at once: the bindings of csrc/at_once.h
// that compute nothing.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "csrc/any_dtype.h"
#include "csrc/at_once.h"
#include "csrc/ltc.h"
#include "csrc/seen.h"
#include "src/bindings.h"
#include "src/places.h"

namespace nb = nanobind;
namespace mx = mlx::core;
using namespace nb::literals;
using mlx_ncps::array_of;
using mlx_ncps::Form;

namespace {

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
  m.def("is_tracing", &mlx_ncps::is_tracing,
        "Whether mx.compile, a gradient or mx.vmap traces a function in this thread.");
  m.def(
      "may_be_read",
      [](nb::handle a) {
        const auto* array = array_of(a);
        if (!array || !mlx_ncps::is_float(array->dtype())) return false;
        return mlx_ncps::values_of(*array) || !mlx_ncps::is_tracing();
      },
      "a"_a.none(), "Whether an object is an array of floats with values that can be had now.");
  m.def(
      "awaits_trace",
      [](nb::handle a) {
        const auto* array = array_of(a);
        return array && mlx_ncps::is_tracing() && !mlx_ncps::has_any_values(*array);
      },
      "a"_a.none(), "Whether an object is an array without a value while a function is traced.");
  m.def(
      "reshaped",
      [](const mx::array& a, const std::vector<int>& shape) -> std::optional<mx::array> {
        size_t size = 1;
        for (const auto n : shape) size *= size_t(n);
        if (!a.is_available() || !a.flags().row_contiguous || a.size() != size) return std::nullopt;
        return mlx_ncps::reshaped(a, mx::Shape(shape.begin(), shape.end()));
      },
      "a"_a, "shape"_a, "The values of an evaluated array in another shape, or None.");
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
      [](const mx::array& x, int form, long work, bool beside_gpu, bool time_first) {
        return mlx_ncps::fits(x, Form(form), work, beside_gpu, time_first);
      },
      "x"_a, "form"_a, "work"_a, "beside_gpu"_a, "time_first"_a = false,
      "Whether inputs lie in this form and are not too much, at so much work for each row and "
      "step.");
}

}  // namespace

void bind_values_and_limits(nb::module_& m) {
  bind_values(m);
  bind_limits(m);
}
