// Step programs (csrc/program.h) for Python.
#include "csrc/program.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include "src/bindings.h"

namespace nb = nanobind;
using namespace nb::literals;
using mlx_ncps::Program;

namespace {

using Row = std::tuple<std::string, int, std::vector<int>, std::vector<int>>;

std::vector<mlx_ncps::Instruction> instructions(const std::vector<Row>& rows) {
  std::vector<mlx_ncps::Instruction> all;
  for (const auto& [op, out, in, ints] : rows) all.push_back({op, out, in, ints});
  return all;
}

}  // namespace

void bind_program(nb::module_& m) {
  nb::class_<Shared<Program>>(m, "Program", "A step program, checked.")
      .def(
          "__init__",
          [](Shared<Program>* self, const std::vector<std::vector<int>>& captured,
             std::vector<int> steps, std::vector<int> states, std::vector<long> sizes,
             std::vector<bool> varying, std::vector<std::pair<int, float>> constants,
             const std::vector<Row>& once, const std::vector<Row>& step, std::vector<int> next,
             std::vector<int> outputs) {
            mlx_ncps::ProgramText text{.captured = {},
                                       .steps = std::move(steps),
                                       .states = std::move(states),
                                       .sizes = std::move(sizes),
                                       .varying = std::move(varying),
                                       .constants = std::move(constants),
                                       .once = instructions(once),
                                       .step = instructions(step),
                                       .next = std::move(next),
                                       .outputs = std::move(outputs)};
            for (const auto& shape : captured)
              text.captured.emplace_back(shape.begin(), shape.end());
            new (self) Shared<Program>{std::make_shared<const Program>(std::move(text))};
          },
          nb::kw_only(), "captured"_a, "steps"_a, "states"_a, "sizes"_a, "varying"_a, "constants"_a,
          "once"_a, "step"_a, "next"_a, "outputs"_a)
      .def_prop_ro(
          "work", [](const Shared<Program>& p) { return p.object->work(); },
          "Of one row and step, in multiply-adds.");
  m.def("program_sequence", &mlx_ncps::program_sequence, "program"_a, "steps"_a, "states"_a,
        "captured"_a, "resets"_a.none() = nb::none(), "reset_states"_a.none() = nb::none(),
        nb::kw_only(), "stream"_a = nb::none(),
        "A step program over a sequence: its states, then its outputs, [B, T, n] each.");
  m.def(
      "array_id", [](const mlx::core::array& a) { return a.id(); }, "a"_a,
      "A number that only handles of the same array share, while it lives.");
}
