// The Python module mlx_ncps._ext: bindings only; the contracts stand in csrc/ltc.h, csrc/cfc.h and
// csrc/cpu/thread_pool.h.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <map>

#include "csrc/cfc.h"
#include "csrc/cpu/kernels.h"
#include "csrc/cpu/thread_pool.h"
#include "csrc/dropout.h"
#include "csrc/fold.h"
#include "csrc/guard.h"
#include "csrc/ltc.h"
#include "csrc/mappable.h"
#include "csrc/metallib.h"
#include "csrc/pairs.h"
#include "csrc/seen.h"
#include "metal/activations.h"
#include "metal/cfc.h"
#include "metal/ltc.h"
#include "src/bindings.h"

namespace nb = nanobind;
using namespace nb::literals;

using mlx_ncps::SynapseLists;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Indices = nb::ndarray<const int, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

static std::vector<int> vector_of(const Indices& a) { return {a.data(), a.data() + a.size()}; }

NB_MODULE(_ext, m) {
  m.doc() = "Fused CfC and LTC primitives for MLX's CPU backend.";

  nb::class_<Shared<SynapseLists>>(m, "SynapseLists", "The non-zero entries of a wiring's masks.")
      .def(
          "__init__",
          [](Shared<SynapseLists>* self, Indices source, Indices target, Indices sensory_source,
             Indices sensory_target, int inputs, int units) {
            new (self) Shared<SynapseLists>{std::make_shared<const SynapseLists>(
                vector_of(source), vector_of(target), vector_of(sensory_source),
                vector_of(sensory_target), inputs, units)};
          },
          "source"_a, "target"_a, "sensory_source"_a, "sensory_target"_a, "inputs"_a, "units"_a);

  m.def("ltc_sequence", &mlx_ncps::ltc_sequence, "x"_a, "v0"_a, "ts"_a, "folded"_a, nb::kw_only(),
        "unfolds"_a, "solver"_a = "semi_implicit", "synapses"_a.none() = nb::none(),
        "memory"_a.none() = nb::none(), "resets"_a.none() = nb::none(), "save"_a = true,
        "stream"_a = nb::none());
  m.def(
      "ltc_kernel",
      [](int B, int I, int H, int unfolds, std::shared_ptr<const SynapseLists> synapses,
         const std::string& solver) {
        const long evaluations = mlx_ncps::ltc_evaluations(unfolds, solver);
        const auto kernel = mlx_ncps::choose_ltc_kernel(B, I, H, evaluations, synapses.get());
        return kernel == mlx_ncps::LtcKernel::LISTS ? "lists" : "dense";
      },
      "B"_a, "I"_a, "H"_a, "unfolds"_a, "synapses"_a.none() = nb::none(),
      "solver"_a = "semi_implicit", "Which LTC kernel runs this shape: 'dense' or 'lists'.");
  m.def(
      "synapse_lists_made", [] { return SynapseLists::made.load(); },
      "How many lists of synapses were made so far.");
  m.def("cfc_sequence", &mlx_ncps::cfc_sequence, "x"_a, "h0"_a, "ts"_a.none(), "weights"_a,
        nb::kw_only(), "layers"_a, "mode"_a, "activation"_a, "head_activation"_a = "tanh",
        "merged"_a = false, "memory"_a.none() = nb::none(), "dropout"_a.none() = nb::none(),
        "first_dropped"_a = 0, "resets"_a.none() = nb::none(), "save"_a = true,
        "stream"_a = nb::none());
  m.def("dropout_factors", &mlx_ncps::dropout_factors, "key"_a, "shape"_a, "rate"_a,
        "stream"_a = nb::none(),
        "float32 [shape]: 0 with probability `rate`, else 1 / (1 - rate), from bits of an "
        "mx.random.key.");

  m.def("fold_ltc", &mlx_ncps::fold_ltc, "weights"_a, nb::kw_only(), "mask"_a.none() = nb::none(),
        "sensory_mask"_a.none() = nb::none(), "input_w"_a.none() = nb::none(),
        "input_b"_a.none() = nb::none(), "implicit"_a, "epsilon"_a, "stream"_a = nb::none());
  m.def("products", &mlx_ncps::products, "x"_a, "y"_a, "stream"_a = nb::none(),
        "x[i] * y[i] of float32 arrays of equal shapes, in one primitive.");
  m.def("scaled_sums", &mlx_ncps::scaled_sums, "x"_a, "y"_a, "factor"_a, "stream"_a = nb::none(),
        "factor * x[i] + y[i] of such arrays, each rounded by itself.");
  nb::class_<mlx_ncps::Rule>(m, "Rule", "What must hold among arrays: see csrc/guard.h.")
      .def(
          "__init__",
          [](mlx_ncps::Rule* self, Indices at, Indices of, int width, bool own) {
            new (self) mlx_ncps::Rule{vector_of(at), vector_of(of), width, own};
          },
          "at"_a, "of"_a, "width"_a, "own"_a);
  m.def("guarded", &mlx_ncps::guarded, "a"_a, "arrays"_a, "rules"_a, "stream"_a = nb::none(),
        "`a`, float32, or NaN throughout where one of the rules doesn't hold among the arrays.");

#ifdef MLX_NCPS_LOCK_GUARD
  bind_lock_guard(m);
#endif
  bind_interrupt();
  bind_program(m);
  bind_values_and_limits(m);
  bind_step_cell(m);

  m.def("mappable", &mlx_ncps::mappable, "outputs"_a,
        "The outputs of a launch of a GPU kernel, which mx.vmap can map.");
  m.def("metallib_available", &mlx_ncps::metallib_available);
  m.def("metallib_max_threads", &mlx_ncps::metallib_max_threads, "function"_a);
  m.def(
      "metallib_kernel",
      [](const std::string& function, const mlx_ncps::Arrays& inputs,
         const std::vector<std::vector<int>>& output_shapes, mlx_ncps::Size3 grid,
         mlx_ncps::Size3 threadgroup, mlx::core::StreamOrDevice stream) {
        std::vector<mlx::core::Shape> shapes;
        for (const auto& shape : output_shapes) shapes.emplace_back(shape.begin(), shape.end());
        return mlx_ncps::metallib_kernel(function, inputs, shapes, grid, threadgroup, stream);
      },
      "function"_a, "inputs"_a, "output_shapes"_a, "grid"_a, "threadgroup"_a,
      "stream"_a = nb::none(), "Runs a function of the metallib; outputs are float32.");

  m.def("in_shapeless_trace", &mlx_ncps::in_shapeless_trace,
        "Whether mx.compile(shapeless=True) traces on this thread.");
  m.def("num_threads", &mlx_ncps::num_threads);
  m.def("set_num_threads", &mlx_ncps::set_num_threads, "n"_a);
  m.def(
      "isa", [] { return std::string(mlx_ncps::kernels().name); },
      "The instruction set of the kernels.");
  m.def("isas", [] {
    std::vector<std::string> names;
    for (auto n = mlx_ncps::available_kernels(); *n; ++n) names.push_back(*n);
    return names;
  });
  m.def(
      "set_isa", [](const std::string& name) { mlx_ncps::choose_kernels(name.c_str()); }, "name"_a);
  m.def(
      "vector_limit",
      [](const std::string& kind) {
        if (kind == "sigmoid") return mlx_ncps::vector_limit(mlx_ncps::Limit::GATES);
        if (kind == "fma") return mlx_ncps::vector_limit(mlx_ncps::Limit::MULTIPLY_ADDS);
        throw std::invalid_argument("[vector_limit] kind must be 'sigmoid' or 'fma', got '" + kind +
                                    "'.");
      },
      "kind"_a, "Measured 'sigmoid' gates or 'fma' multiply-adds per second, all threads.");
  m.def(
      "maths",
      [](const std::string& function, bool slope, const Floats& z) {
#define NCPS_NUMBER(NAME, name, ...) {#name, NCPS_##NAME},
        static const std::map<std::string, int> functions{
            NCPS_ACTIVATIONS(NCPS_NUMBER){"exp2", mlx_ncps::MATHS_EXP2},
            {"logistic", mlx_ncps::MATHS_LOGISTIC},
            {"erf", mlx_ncps::MATHS_ERF}};
#undef NCPS_NUMBER
        std::vector<float> out(z.size());
        mlx_ncps::kernels().run_maths(functions.at(function), slope, z.data(), long(z.size()),
                                      out.data());
        return mlx::core::array(out.data(), {int(out.size())});
      },
      "function"_a, "slope"_a, "z"_a, "A function of the kernels, or its slope (for tests).");
  // For tests, which compare Python's tables with them.
  nb::list activations, modes, solvers;
#define NCPS_ROW(NAME, name, from_value, backbone, heads) \
  activations.append(nb::make_tuple(#name, from_value, backbone, heads));
#define NCPS_MODE(NAME, name) modes.append(#name);
#define NCPS_SOLVER(NAME, name, stages) solvers.append(#name);
  NCPS_ACTIVATIONS(NCPS_ROW)
  NCPS_CFC_MODES(NCPS_MODE)
  NCPS_LTC_SOLVERS(NCPS_SOLVER)
#undef NCPS_ROW
#undef NCPS_MODE
#undef NCPS_SOLVER
  m.attr("activations") = nb::tuple(activations);
  m.attr("cfc_modes") = nb::tuple(modes);
  m.attr("ltc_solvers") = nb::tuple(solvers);
  m.attr("max_cfc_layers") = mlx_ncps::MAX_CFC_LAYERS;
  m.def("poison_outputs", &mlx_ncps::poison_outputs, "on"_a,
        "Fill outputs with NaN before kernels write them (for tests).");
  nb::class_<mlx_ncps::Seen>(m, "Seen",
                             "Arrays as they are now, to tell later whether one was edited.")
      .def(nb::init<mlx_ncps::Arrays>(), "arrays"_a)
      .def("are", &mlx_ncps::Seen::are, "arrays"_a);
  m.def(
      "array_type",
      []() -> nb::object {
        const nb::handle type = nb::type<mlx::core::array>();
        return type.is_valid() ? nb::borrow(type) : nb::none();
      },
      "mx.array where nanobind's types are those of MLX, else None.");
}
