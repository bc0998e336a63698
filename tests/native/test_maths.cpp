// The functions of csrc/cpu/simd.inl, by kernels that hand them out, and the kernels' memory.
#include <bit>
#include <cstdint>

#include "metal/cfc.h"
#include "tests/native/kernels.h"

namespace {

using namespace mlx_ncps;
using namespace kernel_tests;

void check_relative(const std::string& name, double at, double got, double want, double error) {
  require(std::abs(got - want) <= error * std::abs(want), name + "(" + std::to_string(at) +
                                                              "): got " + std::to_string(got) +
                                                              ", want " + std::to_string(want));
}

// 1 / (1 + 2^z) of every z: one step of the LTC from v = 0 with cm = ts = 1, no leak and no w.
Exact ltc_gates(const Numbers& z) {
  const size_t H = z.size();
  const Exact zero(Numbers(H * H, 0)), one(Numbers(H, 1)), s2(z), v(H);
  LtcProblem p{};
  p.B = p.T = p.I = p.U = 1, p.H = long(H);
  p.x = p.ts = p.cm = one.get();
  p.v0 = p.leak_num = p.leak_den = zero.get();
  p.recurrent = {zero.get(), zero.get(), zero.get(), zero.get()};
  p.sensory = {s2.get(), zero.get(), zero.get(), one.get()};
  p.v = v.get();
  kernels().ltc_forward(p, LtcKernel::DENSE);
  return Exact(Numbers(v.get(), v.get() + H));
}

// F1 + g F2 of every (f1, f2, u); with a layer, F1 = tanh(0.1 activation(f1)).
Exact cfc_outputs(const Numbers& f1, const Numbers& f2, const Numbers& u, int layers,
                  int activation) {
  const size_t H = f1.size(), fan_in = layers ? H : 1 + H;
  Numbers first(H * (1 + H)), pass(H * fan_in), none(H * fan_in);
  for (size_t j = 0; j < H; ++j) first[j * (1 + H)] = f1[j], pass[j * fan_in + j] = 0.1;
  const Exact one(Numbers(1, 1)), zero(Numbers(H, 0)), layer(first), head(layers ? pass : first),
      nothing(none), f2_bias(f2), u_bias(u), h(H);
  CfcProblem p{};
  p.B = p.T = p.I = 1, p.H = long(H);
  p.layers = layers, p.mode = NCPS_CFC_NO_GATE, p.activation = activation, p.heads = 3;
  p.head_activation = NCPS_TANH;
  p.x = one.get(), p.h0 = zero.get(), p.h = h.get();
  if (layers) p.width[0] = long(H), p.weight[0] = layer.get(), p.bias[0] = zero.get();
  p.head_weight[0] = head.get(), p.head_bias[0] = zero.get();
  p.head_weight[1] = p.head_weight[2] = nothing.get();
  p.head_bias[1] = f2_bias.get(), p.head_bias[2] = u_bias.get();
  kernels().cfc_forward(p);
  return Exact(Numbers(h.get(), h.get() + H));
}

Numbers range(double first, double last, size_t count) {
  Numbers out(count);
  for (size_t i = 0; i < count; ++i) out[i] = float(first + (last - first) * i / (count - 1));
  return out;
}

}  // namespace

NATIVE_TEST(kernels_gate_is_accurate_and_saturates) {
  for_each_isa([] {
    const auto near = range(-60, 60, 401), far = range(-1000, 1000, 20);
    const Exact close = ltc_gates(near), distant = ltc_gates(far);
    for (size_t i = 0; i < near.size(); ++i)
      check_relative("gate", near[i], close.data[i], 1 / (1 + std::exp2(near[i])), 3e-7);
    for (size_t i = 0; i < far.size(); ++i)
      require(far[i] < 0 ? distant.data[i] == 1
                         : std::abs(distant.data[i] - std::exp2(-far[i])) <= 2e-22,
              "gate(" + std::to_string(far[i]) + "): got " + std::to_string(distant.data[i]));
    const double infinity = std::numeric_limits<double>::infinity();
    const Exact edges = ltc_gates({infinity, -infinity, std::nan("")});
    require(edges.data[0] == 0, "gate(infinity)");
    require(edges.data[1] == 1, "gate(-infinity)");
    require(std::isnan(edges.data[2]), "gate(NaN)");
  });
}

NATIVE_TEST(kernels_tanh_sigmoid_and_erf_are_accurate) {
  for_each_isa([] {
    const auto z = range(-12, 12, 201), small = range(-1e-3, 1e-3, 20);
    const auto zeros = [](const Numbers& like) { return Numbers(like.size(), 0); };
    for (const auto& f : {z, small}) {
      const Exact tanh = cfc_outputs(f, zeros(f), zeros(f), 0, 0);
      const Exact sigmoid = cfc_outputs(zeros(f), Numbers(f.size(), 1), f, 0, 0);
      for (size_t i = 0; i < f.size(); ++i) {
        check_relative("tanh", f[i], tanh.data[i], std::tanh(f[i]), 3e-7);
        check_relative("sigmoid", f[i], sigmoid.data[i], std::tanh(1) / (1 + std::exp(-f[i])),
                       1e-6);
      }
    }
    const Exact gelu = cfc_outputs(z, zeros(z), zeros(z), 1, NCPS_GELU);
    for (size_t i = 0; i < z.size(); ++i)
      require(std::abs(gelu.data[i] - std::tanh(0.1 * activate(NCPS_GELU, z[i]))) <
                  1e-7 * (1 + std::abs(z[i])),
              "gelu(" + std::to_string(z[i]) + "): got " + std::to_string(gelu.data[i]));
  });
}

// Every 20011th float of both signs; the error in units in the last place of the value, or of
// 2^-126.
NATIVE_TEST(kernels_maths_are_accurate_and_saturate_over_all_floats) {
  std::vector<float> z;
  for (uint64_t bits = 0; bits < 1ull << 32; bits += 20011)
    z.push_back(std::bit_cast<float>(uint32_t(bits)));
  std::vector<float> got(z.size());
  struct Function {
    int id;
    double (*want)(double);
    double ulps, end;
  };
  const Function functions[] = {{NCPS_TANH, [](double x) { return std::tanh(x); }, 6, 9.011},
                                {MATHS_ERF, [](double x) { return std::erf(x); }, 6, 3.93},
                                {MATHS_EXP2, [](double x) { return std::exp2(x); }, 3, 150}};
  // Per max(1, |z|), as in tests/support/cases.py.
  const auto gate_holds = [](float z, float got) {
    const double want = 1 / (1 + std::exp2(double(z)));
    if (std::isnan(z)) return std::isnan(got);
    if (std::abs(z) >= 150) return got == float(want);
    const double ulp = std::exp2(std::floor(std::log2(std::max(want, 0x1p-126))) - 23);
    return std::abs(got - want) <= 3 * ulp * std::max(1.0, std::abs(double(z))) + 0x1p-126;
  };
  for_each_isa([&] {
    for (const auto& f : functions) {
      kernels().run_maths(f.id, false, z.data(), long(z.size()), got.data());
      for (size_t i = 0; i < z.size(); ++i) {
        const double want = f.want(z[i]), size = std::max(std::abs(want), 0x1p-126);
        const double ulp = std::exp2(std::floor(std::log2(size)) - 23);
        const bool holds = std::isnan(z[i]) ? std::isnan(got[i])
                           : std::abs(z[i]) >= f.end || size > 3.4028235e38
                               ? got[i] == float(want)
                               : std::abs(got[i] - want) <= f.ulps * ulp + 0x1p-126;
        require(holds, "function " + std::to_string(f.id) + " of " + std::to_string(z[i]) +
                           ": got " + std::to_string(got[i]));
      }
    }
    kernels().run_maths(MATHS_LOGISTIC, false, z.data(), long(z.size()), got.data());
    for (size_t i = 0; i < z.size(); ++i)
      require(gate_holds(z[i], got[i]), "gate of " + std::to_string(z[i]));
    for (const int id : {NCPS_TANH, NCPS_LECUN_TANH, NCPS_SIGMOID}) {
      kernels().run_maths(id, true, z.data(), long(z.size()), got.data());
      for (size_t i = 0; i < z.size(); ++i)
        require(!(std::abs(z[i]) > 120) || got[i] == 0, "slope of a saturated activation");
    }
  });
}

NATIVE_TEST(kernels_memory_of_two_tasks_shares_no_cache_line) {
  for (const long count : {1, 17, 1000}) {
    float* p = allocate_floats(count);
    CHECK(reinterpret_cast<uintptr_t>(p) % CACHE_LINE == 0);
    free_floats(p);
  }
#if defined(__aarch64__)
  CHECK(CACHE_LINE == 128);
#endif
}
