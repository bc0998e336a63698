// What the tests of the CPU kernels of csrc/cpu/kernels.h share. They run without MLX, so that
// sanitizers see every access: arrays have exactly the size that the contract names, and start as
// NaN where a kernel must write. Values against the equations of MATHS in double, written plainly;
// gradients against a central difference along one random direction of all arguments at once.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "csrc/cpu/interrupt.h"
#include "csrc/cpu/kernels.h"
#include "metal/activations.h"
#include "tests/native/test.h"

namespace kernel_tests {

using namespace mlx_ncps;
using Numbers = std::vector<double>;

// An array of exactly `size` floats on the heap: one element past either end is an error that ASan
// sees.
struct Exact {
  std::unique_ptr<float[]> data;
  size_t size;
  explicit Exact(size_t n) : data(new float[n]), size(n) {
    for (size_t i = 0; i < n; ++i) data[i] = std::numeric_limits<float>::quiet_NaN();
  }
  explicit Exact(const Numbers& from) : Exact(from.size()) {
    for (size_t i = 0; i < size; ++i) data[i] = float(from[i]);
  }
  float* get() const { return data.get(); }
};

inline void require(bool holds, const std::string& message) {
  if (!holds) throw std::runtime_error(message);
}

struct Draw {
  std::mt19937 engine;
  Numbers operator()(size_t n, double low, double high) {
    Numbers out(n);
    for (auto& v : out) v = float(low + (high - low) * (engine() / 4294967296.0));
    return out;
  }
};

inline double dot(const Numbers& a, const Numbers& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// Fails where the kernels' states or the gradient along the direction differ from the double ones.
// want: those of `got`, then those of `more`.
inline void check_close(const std::string& name, const Exact& got, const Exact& more,
                        const Numbers& want) {
  require(want.size() == got.size + more.size, name + ": another number of states");
  for (size_t i = 0; i < want.size(); ++i) {
    const float value = i < got.size ? got.data[i] : more.data[i - got.size];
    require(std::abs(value - want[i]) <= 2e-5 * (1 + std::abs(want[i])),
            name + "[" + std::to_string(i) + "]: got " + std::to_string(value) + ", want " +
                std::to_string(want[i]));
  }
}

// Fails where a NaN in row 0 of `arguments` changes what run() writes into another row of
// `outputs`.
template <typename Run>
inline void check_rows_apart(const std::string& name, size_t rows,
                             const std::vector<const Exact*>& arguments,
                             const std::vector<const Exact*>& outputs, Run run) {
  std::vector<std::vector<float>> before;
  for (const auto* each : outputs) before.emplace_back(each->get(), each->get() + each->size);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const auto* each : arguments)
    std::fill_n(each->get(), each->size / std::max(rows, 1ul), nan);
  for (const auto* each : outputs) std::fill_n(each->get(), each->size, nan);
  run();
  for (size_t o = 0; o < outputs.size(); ++o)
    for (size_t i = outputs[o]->size / std::max(rows, 1ul); i < outputs[o]->size; ++i)
      require(outputs[o]->data[i] == before[o][i],
              name + ": row 0 reaches output " + std::to_string(o) + "[" + std::to_string(i) + "]");
}

// Fails where run(), a packed cell, writes other states than those that are there.
template <typename Run>
inline void check_packed(const std::string& name, const std::vector<const Exact*>& states,
                         Run run) {
  std::vector<std::vector<float>> before;
  for (const auto* each : states) before.emplace_back(each->get(), each->get() + each->size);
  for (const auto* each : states)
    std::fill_n(each->get(), each->size, std::numeric_limits<float>::quiet_NaN());
  run();
  for (size_t n = 0; n < states.size(); ++n)
    for (size_t i = 0; i < states[n]->size; ++i)
      require(states[n]->data[i] == before[n][i] || std::isnan(before[n][i]),
              name + ": packed, other states " + std::to_string(n) + "[" + std::to_string(i) + "]");
}

// Fails where run() goes on after Ctrl-C, or stops without.
template <typename Run>
inline void check_gives_up(const std::string& name, Run run) {
  const WorkFor main(true);
  run();
  bool ended = false;
  give_up(true);
  try {
    run();
  } catch (const Interrupted&) {
    ended = true;
  }
  give_up(false);
  require(ended, name + ": goes on after Ctrl-C");
}

// Those of the arguments: `gradients`, then `more` from its element `first` on.
template <typename Loss>
inline void check_gradient(const std::string& name, const std::vector<Numbers>& arguments,
                           const std::vector<Exact>& gradients, const std::vector<Exact>& more,
                           size_t first, Loss loss) {
  Draw draw{std::mt19937(5)};
  const double h = 1e-5;
  auto up = arguments, down = arguments;
  double got = 0, scale = 0.1;
  for (size_t a = 0; a < arguments.size(); ++a) {
    const auto direction = draw(arguments[a].size(), -1, 1);
    const auto& gradient = a < gradients.size() ? gradients[a] : more[first + a - gradients.size()];
    for (size_t i = 0; i < direction.size(); ++i) {
      up[a][i] += h * direction[i], down[a][i] -= h * direction[i];
      got += gradient.data[i] * direction[i];
      scale += std::abs(gradient.data[i] * direction[i]);
    }
  }
  const double want = (loss(up) - loss(down)) / (2 * h);
  require(std::abs(got - want) <= 1e-5 * scale,
          name + ": got " + std::to_string(got) + ", want " + std::to_string(want));
}
template <typename Loss>
inline void check_gradient(const std::string& name, const std::vector<Numbers>& arguments,
                           const std::vector<Exact>& gradients, const std::vector<Exact>& more,
                           Loss loss) {
  check_gradient(name, arguments, gradients, more, 0, loss);
}

inline double activate(int activation, double z) {
  switch (activation) {
    case NCPS_LECUN_TANH:
      return 1.7159 * std::tanh(0.666 * z);
    case NCPS_TANH:
      return std::tanh(z);
    case NCPS_RELU:
      return z > 0 ? z : 0;
    case NCPS_GELU:
      return z * 0.5 * (1 + std::erf(z / std::sqrt(2.0)));
    case NCPS_SIGMOID:
      return 1 / (1 + std::exp(-z));
    case NCPS_SILU:
      return z / (1 + std::exp(-z));
    case NCPS_IDENTITY:
      return z;
    default:
      throw std::runtime_error("activate() lacks the activation " + std::to_string(activation));
  }
}

template <typename Check>
void for_each_isa(Check check) {
  require(*available_kernels(), "no kernels run on this CPU");
  for (auto name = available_kernels(); *name; ++name) {
    choose_kernels(*name);
    check();
  }
  choose_kernels("auto");
}

}  // namespace kernel_tests
