// The CfC's kernels: arguments x, h0, ts, then backbone (W, b)*, heads (W, b)*, w_tau, A.
#include "csrc/cpu/thread_pool.h"
#include "metal/cfc.h"
#include "tests/native/mixed_memory.h"

namespace {

using namespace mlx_ncps;
using namespace kernel_tests;

struct CfcSizes {
  long B, T, I, H, K;
  int layers, mode, activation, heads, head_activation = NCPS_TANH;
  int dropped = 0;  // so many of the last layers
};

Numbers linear(const Numbers& W, const Numbers& b, const Numbers& z) {
  Numbers out = b;
  for (size_t n = 0; n < b.size(); ++n)
    for (size_t k = 0; k < z.size(); ++k) out[n] += W[n * z.size() + k] * z[k];
  return out;
}

// factors: of dropout [B, T, dropped K].
Numbers cfc_states(const CfcSizes& n, const std::vector<Numbers>& a, const Numbers& factors,
                   bool mixed, const Anew& anew) {
  Numbers states((mixed ? 2 : 1) * n.B * n.T * n.H);
  const size_t memory = a.size() - 4;
  for (long b = 0; b < n.B; ++b) {
    Numbers h(a[1].begin() + b * n.H, a[1].begin() + (b + 1) * n.H), c;
    if (mixed) c.assign(a[memory].begin() + b * n.H, a[memory].begin() + (b + 1) * n.H);
    for (long t = 0; t < n.T; ++t) {
      const long to = (b * n.T + t) * n.H;
      anew.start(b, t, n.T, n.H, h.data(), mixed ? c.data() : nullptr);
      if (mixed) {
        lstm_step(&a[memory], a[0].data() + (b * n.T + t) * n.I, n.I, h.data(), c.data(), n.H);
        std::copy(c.begin(), c.end(), states.begin() + n.B * n.T * n.H + to);
      }
      Numbers z(a[0].begin() + (b * n.T + t) * n.I, a[0].begin() + (b * n.T + t + 1) * n.I);
      z.insert(z.end(), h.begin(), h.end());
      size_t at = 3;
      for (int l = 0; l < n.layers; ++l, at += 2) {
        z = linear(a[at], a[at + 1], z);
        for (auto& v : z) v = activate(n.activation, v);
        const long first = ((b * n.T + t) * n.dropped + l - (n.layers - n.dropped)) * n.K;
        for (long k = 0; l >= n.layers - n.dropped && k < n.K; ++k) z[k] *= factors[first + k];
      }
      std::vector<Numbers> head;
      for (int i = 0; i < n.heads; ++i, at += 2) head.push_back(linear(a[at], a[at + 1], z));
      const double ts = n.heads == 3 ? 1 : a[2][b * n.T + t];
      for (long j = 0; j < n.H; ++j) {
        if (n.mode == NCPS_CFC_PURE) {
          const double f = head[0][j];
          h[j] = a[at + 1][j] * (1 - std::exp(-ts * (std::abs(a[at][j]) + std::abs(f))) * f);
          continue;
        }
        const double u = n.heads == 3 ? head[2][j] : head[2][j] * ts + head[3][j];
        const double g = 1 / (1 + std::exp(-u)), F1 = activate(n.head_activation, head[0][j]),
                     F2 = activate(n.head_activation, head[1][j]);
        h[j] = n.mode == NCPS_CFC_NO_GATE ? F1 + g * F2 : F1 * (1 - g) + g * F2;
      }
      for (long j = 0; j < n.H; ++j) states[to + j] = h[j];
    }
  }
  return states;
}

void run_packed(const CfcProblem& p) {
  auto cell = p;  // without the arrays of a call
  cell.B = cell.T = 1, cell.x = cell.h0 = cell.ts = nullptr, cell.h = nullptr;
  cell.dropout = nullptr, cell.lstm.c0 = nullptr, cell.lstm.c = nullptr;
  void* packed = kernels().new_packed_cfc(cell);
  auto call = p;  // without the parameters
  for (const auto& all : {call.weight, call.bias}) std::fill_n(all, p.layers, nullptr);
  for (const auto& all : {call.head_weight, call.head_bias}) std::fill_n(all, p.heads, nullptr);
  call.w_tau = call.A = nullptr;
  call.lstm.input_weight = call.lstm.bias = call.lstm.recurrent_weight = nullptr;
  kernels().run_packed_cfc(packed, call);
  kernels().free_packed_cfc(packed);
}

void check_cfc(const CfcSizes& n, bool mixed = false, bool resets = false) {
  Draw draw{std::mt19937(unsigned(n.H + 7 * n.K + n.mode))};
  const size_t B = n.B, T = n.T, I = n.I, H = n.H, K = n.K;
  std::vector<Numbers> a{draw(B * T * I, -1, 1), draw(B * H, -1, 1),
                         draw(n.heads == 3 ? 0 : B * T, 0, 2)};
  size_t fan_in = I + H;
  for (int l = 0; l < n.layers; ++l, fan_in = K)
    a.push_back(draw(K * fan_in, -.5, .5)), a.push_back(draw(K, -.5, .5));
  for (int i = 0; i < n.heads; ++i)
    a.push_back(draw(H * fan_in, -.5, .5)), a.push_back(draw(H, -.5, .5));
  if (n.mode == NCPS_CFC_PURE) {
    a.push_back(draw(H, -1, 1)), a.push_back(draw(H, .5, 1));
    if (n.H > 1) a[a.size() - 2][0] = 0;  // where |w_tau| has slope 0
  }
  const size_t own = a.size();
  if (mixed) draw_memory(draw, B, I, H, a);
  std::vector<Exact> in(a.begin(), a.begin() + long(own)), out;
  for (const auto& each : in) out.emplace_back(each.size);
  const auto cotangents = draw((mixed ? 2 : 1) * B * T * H, -1, 1);
  const Memory memory(mixed, a, own, cotangents, B * T * H);
  const Anew anew(resets, draw, B, T, H);
  auto factors = draw(B * T * n.dropped * K, -1, 2);
  for (auto& factor : factors) factor = std::max(factor, 0.0);
  const Exact dropout(factors);
  const auto states = [&](const std::vector<Numbers>& x) {
    return cfc_states(n, x, factors, mixed, anew);
  };
  CfcProblem p{};
  memory.bind(p.lstm);
  anew.bind(p.resets, p.lstm);
  p.B = n.B, p.T = n.T, p.I = n.I, p.H = n.H, p.layers = n.layers, p.mode = n.mode,
  p.activation = n.activation, p.heads = n.heads, p.head_activation = n.head_activation;
  p.saved_width = n.layers * n.K + n.heads * n.H;
  p.first_dropped = n.layers - n.dropped, p.dropped_width = n.dropped * n.K;
  p.dropout = n.dropped > 0 ? dropout.get() : nullptr;
  const Exact h(B * T * H), saved(B * T * p.saved_width),
      dh(Numbers(cotangents.begin(), cotangents.begin() + long(B * T * H)));
  p.x = in[0].get(), p.h0 = in[1].get(), p.dx = out[0].get(), p.dh0 = out[1].get();
  p.ts = n.heads == 3 ? nullptr : in[2].get(), p.dts = n.heads == 3 ? nullptr : out[2].get();
  size_t at = 3;
  for (int l = 0; l < n.layers; ++l, at += 2) {
    p.width[l] = n.K, p.weight[l] = in[at].get(), p.bias[l] = in[at + 1].get();
    p.dweight[l] = out[at].get(), p.dbias[l] = out[at + 1].get();
  }
  for (int i = 0; i < n.heads; ++i, at += 2) {
    p.head_weight[i] = in[at].get(), p.head_bias[i] = in[at + 1].get();
    p.dhead_weight[i] = out[at].get(), p.dhead_bias[i] = out[at + 1].get();
  }
  if (n.mode == NCPS_CFC_PURE)
    p.w_tau = in[at].get(), p.A = in[at + 1].get(), p.dw_tau = out[at].get(),
    p.dA = out[at + 1].get();
  p.h = h.get(), p.saved = saved.get(), p.dh = dh.get();
  const auto run = [&] {
    kernels().cfc_forward(p);
    kernels().cfc_backward(p);
  };
  run();
  const std::string name = std::string(kernels().name) + " cfc B" + std::to_string(B) + " T" +
                           std::to_string(T) + " I" + std::to_string(I) + " H" + std::to_string(H) +
                           " K" + std::to_string(K) + " L" + std::to_string(n.layers) + " mode " +
                           std::to_string(n.mode) + " activation " + std::to_string(n.activation) +
                           " heads " + std::to_string(n.heads) + " of activation " +
                           std::to_string(n.head_activation) + " dropped " +
                           std::to_string(n.dropped) + (resets ? " resets" : "");
  anew.check_gradients(name, mixed, [&](const Anew& other) {
    return dot(cfc_states(n, a, factors, mixed, other), cotangents);
  });
  check_close(name + " h", h, memory.c, states(a));
  check_gradient(name + " gradient", a, out, memory.out,
                 [&](const auto& x) { return dot(states(x), cotangents); });
  p.saved = p.lstm.gates = nullptr;  // no backward will follow
  std::fill_n(h.get(), h.size, std::numeric_limits<float>::quiet_NaN());
  kernels().cfc_forward(p);
  check_close(name + " h without saved", h, memory.c, states(a));
  check_packed(name, {&h, &memory.c}, [&] { run_packed(p); });
  p.saved = saved.get();
  memory.bind(p.lstm);
  check_rows_apart(name, B, memory.with({&in[0], &in[1], &dh}, memory.in, memory.dc),
                   memory.with({&h, &out[0], &out[1]}, memory.out, memory.c), run);
  if (p.ts) check_rows_apart(name, B, {&in[2]}, {&out[2]}, run);
  if (B == 0 || T == 0) return;
  check_gives_up(name, [&] { kernels().cfc_forward(p); });
  check_gives_up(name, [&] { kernels().cfc_backward(p); });
}

}  // namespace

NATIVE_TEST(cfc_kernels_equal_the_equations) {
  for_each_isa([] {
    for (int mode = 0; mode < 3; ++mode)
      for (int layers = 0; layers < 3; ++layers)
        for (const int heads : {3, 4}) {
          const int kept = mode == NCPS_CFC_PURE ? 1 : heads;
          check_cfc({3, 3, 2, 5, 7, layers, mode, NCPS_LECUN_TANH, kept});
          check_cfc({17, 2, 3, 33, 17, layers, mode, NCPS_SILU, kept});
        }
    for (const int head_activation : {NCPS_LECUN_TANH, NCPS_IDENTITY})
      for (const int mode : {NCPS_CFC_DEFAULT, NCPS_CFC_NO_GATE})
        for (const int heads : {3, 4})
          check_cfc({5, 3, 2, 9, 7, 1, mode, NCPS_TANH, heads, head_activation});
    for (int activation = NCPS_LECUN_TANH; activation < NCPS_IDENTITY; ++activation)
      check_cfc({2, 30, 3, 4, 6, 2, NCPS_CFC_DEFAULT, activation, 4});
    check_cfc({1, 1, 1, 1, 1, 1, NCPS_CFC_DEFAULT, NCPS_LECUN_TANH, 4});
    check_cfc({17, 2, 3, 33, 6, 1, NCPS_CFC_DEFAULT, NCPS_LECUN_TANH, 4});  // narrow backbone
    for (const long K : {5, 17}) check_cfc({2, 2, 1, 1, K, 1, NCPS_CFC_PURE, NCPS_SILU, 1});
    check_cfc({8, 30, 2, 5, 6, 1, NCPS_CFC_DEFAULT, NCPS_LECUN_TANH, 4});  // more than one chunk
  });
}

// The slabs of so many weights are summed in several parts.
NATIVE_TEST(cfc_kernels_of_many_weights_equal_the_equations) {
  for_each_isa([] { check_cfc({33, 1, 40, 130, 90, 1, NCPS_CFC_DEFAULT, NCPS_TANH, 4}); });
}

NATIVE_TEST(cfc_kernels_drop_what_their_layers_give) {
  for_each_isa([] {
    for (int layers : {1, 2, 3})
      for (int dropped = 1; dropped <= layers; ++dropped)
        for (bool mixed : {false, true}) {
          check_cfc(
              {3, 3, 2, 5, 7, layers, NCPS_CFC_DEFAULT, NCPS_LECUN_TANH, 4, NCPS_TANH, dropped},
              mixed);
          check_cfc({17, 2, 3, 9, 17, layers, NCPS_CFC_PURE, NCPS_SILU, 1, NCPS_TANH, dropped},
                    mixed);
        }
    check_cfc({2, 100, 3, 4, 6, 2, NCPS_CFC_NO_GATE, NCPS_RELU, 3, NCPS_TANH, 1});
  });
}

NATIVE_TEST(cfc_kernels_accept_empty_batches_and_sequences) {
  for_each_isa([] {
    check_cfc({0, 3, 2, 4, 5, 1, NCPS_CFC_DEFAULT, NCPS_TANH, 4});
    check_cfc({3, 0, 2, 4, 5, 1, NCPS_CFC_DEFAULT, NCPS_TANH, 3});
  });
}

NATIVE_TEST(cfc_kernels_with_mixed_memory_equal_the_equations) {
  for_each_isa([] {
    for (int mode = 0; mode < 3; ++mode)
      for (const int layers : {0, 1}) {
        const int heads = mode == NCPS_CFC_PURE ? 1 : 3 + layers;
        check_cfc({3, 3, 2, 5, 7, layers, mode, NCPS_LECUN_TANH, heads}, true);
        check_cfc({17, 30, 3, 17, 6, layers, mode, NCPS_SILU, heads}, true);
        check_cfc({3, 4, 2, 16, 6, layers, mode, NCPS_SILU, heads}, true);  // whole vectors
      }
    check_cfc({1, 1, 1, 1, 1, 1, NCPS_CFC_DEFAULT, NCPS_TANH, 4}, true);
    check_cfc({0, 3, 2, 4, 5, 1, NCPS_CFC_DEFAULT, NCPS_TANH, 4}, true);
    check_cfc({3, 0, 2, 4, 5, 1, NCPS_CFC_DEFAULT, NCPS_TANH, 3}, true);
  });
}

NATIVE_TEST(cfc_kernels_hold_with_any_number_of_threads) {
  const CfcSizes n{24, 6, 3, 9, 8, 1, NCPS_CFC_DEFAULT, NCPS_LECUN_TANH, 4};
  for (const int threads : {1, 3}) {
    set_num_threads(threads);
    check_cfc(n);
  }
  set_num_threads(0);
}

NATIVE_TEST(cfc_kernels_start_anew_at_resets) {
  for_each_isa([] {
    for (const bool mixed : {false, true}) {
      for (int mode = 0; mode < 3; ++mode) {
        const int heads = mode == NCPS_CFC_PURE ? 1 : 4;
        check_cfc({3, 6, 2, 5, 7, 2, mode, NCPS_SILU, heads, NCPS_TANH, 1}, mixed, true);
        check_cfc({17, 40, 3, 9, 7, 0, mode, NCPS_SILU, heads}, mixed, true);
      }
      check_cfc({0, 3, 2, 4, 3, 1, NCPS_CFC_DEFAULT, NCPS_SILU, 4}, mixed, true);
    }
  });
}
