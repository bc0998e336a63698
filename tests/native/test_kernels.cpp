// Tests of the CPU kernels of csrc/cpu/kernels.h without MLX, so that sanitizers see every access:
// arrays have exactly the size that the contract names, and start as NaN where a kernel must write.
// Values against the equations of MATHS in double, written here plainly; gradients against a
// central difference along one random direction of all arguments at once.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "csrc/cpu/kernels.h"
#include "csrc/cpu/thread_pool.h"
#include "metal/activations.h"
#include "metal/cfc.h"
#include "metal/ltc.h"
#include "tests/native/test.h"

namespace {

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

void require(bool holds, const std::string& message) {
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

double dot(const Numbers& a, const Numbers& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// Fails where the kernels' states or the gradient along the direction differ from the double ones.
// want: those of `got`, then those of `more`.
void check_close(const std::string& name, const Exact& got, const Exact& more,
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
void check_rows_apart(const std::string& name, size_t rows,
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

template <typename Loss>
void check_gradient(const std::string& name, const std::vector<Numbers>& arguments,
                    const std::vector<Exact>& gradients, const std::vector<Exact>& more,
                    Loss loss) {
  Draw draw{std::mt19937(5)};
  const double h = 1e-5;
  auto up = arguments, down = arguments;
  double got = 0, scale = 0.1;
  for (size_t a = 0; a < arguments.size(); ++a) {
    const auto direction = draw(arguments[a].size(), -1, 1);
    const auto& gradient = a < gradients.size() ? gradients[a] : more[a - gradients.size()];
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

// ---- Mixed memory: arguments c0, input_weight, bias, recurrent_weight after the cell's; states h,
// then c

// h -> h* and c -> c' of one row.
void lstm_step(const Numbers* memory, const double* x, long I, double* h, double* c, long H) {
  Numbers z = memory[2];
  for (long n = 0; n < 4 * H; ++n) {
    for (long i = 0; i < I; ++i) z[n] += memory[1][n * I + i] * x[i];
    for (long i = 0; i < H; ++i) z[n] += memory[3][n * H + i] * h[i];
  }
  const auto sigmoid = [](double v) { return 1 / (1 + std::exp(-v)); };
  for (long j = 0; j < H; ++j) {
    c[j] = c[j] * sigmoid(z[2 * H + j] + 1) + std::tanh(z[j]) * sigmoid(z[H + j]);
    h[j] = std::tanh(c[j]) * sigmoid(z[3 * H + j]);
  }
}

// What a kernel reads and writes for the LSTM in front of a cell, with arrays of their exact sizes.
struct Memory {
  bool on;
  std::vector<Exact> in, out;
  Exact c, gates, dc;
  Memory(bool mixed, const std::vector<Numbers>& a, size_t first, const Numbers& cotangents,
         size_t states)
      : on(mixed),
        c(on ? states : 0),
        gates(on ? 4 * states : 0),
        dc(on ? Numbers(cotangents.begin() + long(states), cotangents.end()) : Numbers()) {
    for (size_t i = first; i < a.size(); ++i) in.emplace_back(a[i]), out.emplace_back(a[i].size());
  }
  void bind(LstmProblem& p) const {
    p.on = on;
    if (!on) return;
    p.c0 = in[0].get(), p.input_weight = in[1].get(), p.bias = in[2].get(),
    p.recurrent_weight = in[3].get();
    p.c = c.get(), p.gates = gates.get(), p.dc = dc.get();
    p.dc0 = out[0].get(), p.dinput_weight = out[1].get(), p.dbias = out[2].get(),
    p.drecurrent_weight = out[3].get();
  }
  // The arrays that have the batch as axis 0: the cell's and those of the LSTM.
  using Arrays = std::vector<const Exact*>;
  Arrays with(Arrays cell, const std::vector<Exact>& first, const Exact& states) const {
    if (on) cell.insert(cell.end(), {&first[0], &states});
    return cell;
  }
};

// Steps that start anew, a third of them, with arrays of their exact sizes.
struct Anew {
  Numbers at, h, c;  // [B, T], [B, H], [B, H]; empty: none does
  std::vector<Exact> in, out;
  Anew() = default;
  Anew(bool on, Draw& draw, size_t B, size_t T, size_t H) {
    if (!on) return;
    at = draw(B * T, 0, 1), h = draw(B * H, -1, 1), c = draw(B * H, -1, 1);
    for (auto& each : at) each = each < 1. / 3;
    for (const auto* each : {&at, &h, &c}) in.emplace_back(*each), out.emplace_back(each->size());
  }
  // The states that row b reads at step t of T, [H] each; c null without an LSTM.
  void start(long b, long t, long T, long H, double* state, double* memory) const {
    if (at.empty() || at[b * T + t] == 0) return;
    std::copy_n(h.begin() + b * H, H, state);
    if (memory) std::copy_n(c.begin() + b * H, H, memory);
  }
  void bind(ResetsProblem& p, LstmProblem& lstm) const {
    if (in.empty()) return;
    p = {in[0].get(), in[1].get(), out[0].get(), out[1].get()};
    if (lstm.on) lstm.c_anew = in[2].get(), lstm.dc_anew = out[2].get();
  }
  void check_gradients(const std::string& name) const {
    for (size_t i = 0; !in.empty() && i < in[0].size; ++i)
      require(out[0].data[i] == 0, name + ": resets have a gradient");
  }
};

void draw_memory(Draw& draw, size_t B, size_t I, size_t H, std::vector<Numbers>& a) {
  for (const size_t size : {B * H, 4 * H * I, 4 * H, 4 * H * H}) a.push_back(draw(size, -1, 1));
}

// ---- LTC: arguments x, v0, ts, cm, leak_num, leak_den, s2, m2, w, we, sensory s2, m2, w, we

struct LtcSizes {
  long B, T, I, H, U;
  int solver = NCPS_LTC_SEMI_IMPLICIT;
  long evaluations() const { return U * (solver == NCPS_LTC_RUNGE_KUTTA ? 4 : 1); }
};

// [B, T, H] of states [T, B, H], each `states` in its turn.
Numbers rows_first(const LtcSizes& n, const Numbers& states) {
  Numbers ordered(states.size());
  for (long t = 0; t < n.T; ++t)
    for (long b = 0; b < n.B; ++b)
      for (long j = 0; j < n.H; ++j)
        ordered[(b * n.T + t) * n.H + j] = states[(t * n.B + b) * n.H + j];
  return ordered;
}

Numbers ltc_states(const LtcSizes& n, const std::vector<Numbers>& a, const Anew& anew) {
  const bool mixed = a.size() > 14;
  Numbers states, memories, v = a[1], c = mixed ? a[14] : Numbers();
  const auto gate = [](double z) { return 1 / (1 + std::exp2(z)); };
  for (long t = 0; t < n.T; ++t) {
    for (long b = 0; b < n.B; ++b)
      anew.start(b, t, n.T, n.H, v.data() + b * n.H, mixed ? c.data() + b * n.H : nullptr);
    for (long b = 0; mixed && b < n.B; ++b)
      lstm_step(&a[14], a[0].data() + (b * n.T + t) * n.I, n.I, v.data() + b * n.H,
                c.data() + b * n.H, n.H);
    memories.insert(memories.end(), c.begin(), c.end());
    // n and d of neuron j in row b at the potentials `at`
    const auto sums = [&](const Numbers& at, long b, long j) {
      double num = a[4][j], den = a[5][j];
      for (long i = 0; i < n.H + n.I; ++i) {
        const int first = i < n.H ? 6 : 10;
        const long k = (i < n.H ? i : i - n.H) * n.H + j;
        const double source = i < n.H ? at[b * n.H + i] : a[0][(b * n.T + t) * n.I + i - n.H];
        const double s = gate(a[first][k] * source + a[first + 1][k]);
        den += a[first + 2][k] * s, num += a[first + 3][k] * s;
      }
      return std::pair(num, den);
    };
    // v plus `part` of the unfold's length times the slope at the potentials `at`
    const auto moved = [&](const Numbers& from, const Numbers& at, double part) {
      Numbers next(from.size());
      for (long b = 0; b < n.B; ++b)
        for (long j = 0; j < n.H; ++j) {
          const auto [num, den] = sums(at, b, j);
          const double k = part * a[2][b * n.T + t] / n.U;
          next[b * n.H + j] = from[b * n.H + j] + k * (num - den * at[b * n.H + j]) / a[3][j];
        }
      return next;
    };
    for (long u = 0; u < n.U; ++u) {
      Numbers next(v.size());
      if (n.solver == NCPS_LTC_EXPLICIT) {
        next = moved(v, v, 1);
      } else if (n.solver == NCPS_LTC_RUNGE_KUTTA) {
        const Numbers second = moved(v, v, 0.5), third = moved(v, second, 0.5),
                      fourth = moved(v, third, 1);
        next = moved(moved(v, v, 1.0 / 6), second, 1.0 / 3);
        next = moved(moved(next, third, 1.0 / 3), fourth, 1.0 / 6);
      } else {
        for (long b = 0; b < n.B; ++b)
          for (long j = 0; j < n.H; ++j) {
            const auto [num, den] = sums(v, b, j);
            const double k = a[2][b * n.T + t] / n.U;
            next[b * n.H + j] = (a[3][j] * v[b * n.H + j] + k * num) / (a[3][j] + k * den);
          }
      }
      v = next;
      if (u == n.U - 1) states.insert(states.end(), v.begin(), v.end());  // [T, B, H]
    }
  }
  auto ordered = rows_first(n, states);
  if (mixed) {
    const auto cs = rows_first(n, memories);
    ordered.insert(ordered.end(), cs.begin(), cs.end());
  }
  return ordered;
}

// Only every keep-th synapse is present, the others' weights are 0 and not in the lists; keep = 0:
// none is.
void check_ltc(const LtcSizes& n, LtcKernel kernel, long keep, bool mixed = false,
               bool resets = false) {
  Draw draw{std::mt19937(unsigned(n.B + 10 * n.H))};
  const size_t B = n.B, T = n.T, I = n.I, H = n.H;
  std::vector<Numbers> a{draw(B * T * I, -1, 1), draw(B * H, -1, 1),  draw(B * T, 0, 2),
                         draw(H, .4, .6),        draw(H, -.2, .2),    draw(H, .1, 1),
                         draw(H * H, -9, -3),    draw(H * H, 1, 5),   draw(H * H, .01, 1),
                         draw(H * H, -1, 1),     draw(I * H, -9, -3), draw(I * H, 1, 5),
                         draw(I * H, .01, 1),    draw(I * H, -1, 1)};
  if (T > 0 && B > 0) a[2][0] = 0;
  std::vector<Synapse> lists[2];
  for (int sensory = 0; sensory < 2; ++sensory)
    for (int j = 0; j < n.H; ++j)
      for (int i = 0; i < (sensory ? n.I : n.H); ++i) {
        const long at = i * n.H + j;
        if (keep > 0 && at % keep == 0)
          lists[sensory].push_back({i, j});
        else
          a[sensory ? 12 : 8][at] = a[sensory ? 13 : 9][at] = 0;
      }
  if (mixed) draw_memory(draw, B, I, H, a);
  std::vector<Exact> in(a.begin(), a.begin() + 14), out;
  for (const auto& each : in) out.emplace_back(each.size);
  const auto cotangents = draw((mixed ? 2 : 1) * B * T * H, -1, 1);
  const Exact v(B * T * H), saved(B * T * n.evaluations() * 2 * H),
      dv(Numbers(cotangents.begin(), cotangents.begin() + long(B * T * H)));
  const Memory memory(mixed, a, 14, cotangents, B * T * H);
  const Anew anew(resets, draw, B, T, H);
  LtcProblem p{};
  memory.bind(p.lstm);
  anew.bind(p.resets, p.lstm);
  p.B = p.element = n.B, p.T = n.T, p.I = n.I, p.H = n.H, p.U = n.U, p.solver = n.solver;
  p.x = in[0].get(), p.v0 = in[1].get(), p.ts = in[2].get(), p.cm = in[3].get(),
  p.leak_num = in[4].get(), p.leak_den = in[5].get();
  p.recurrent = {in[6].get(), in[7].get(), in[8].get(), in[9].get()};
  p.sensory = {in[10].get(), in[11].get(), in[12].get(), in[13].get()};
  p.recurrent_list = lists[0].data(), p.recurrent_count = long(lists[0].size());
  p.sensory_list = lists[1].data(), p.sensory_count = long(lists[1].size());
  p.v = v.get(), p.saved = saved.get(), p.dv = dv.get();
  p.dx = out[0].get(), p.dv0 = out[1].get(), p.dts = out[2].get(), p.dcm = out[3].get(),
  p.dleak_num = out[4].get(), p.dleak_den = out[5].get();
  p.drecurrent = {out[6].get(), out[7].get(), out[8].get(), out[9].get()};
  p.dsensory = {out[10].get(), out[11].get(), out[12].get(), out[13].get()};
  const auto run = [&] {
    kernels().ltc_forward(p, kernel);
    kernels().ltc_backward(p, kernel);
  };
  run();
  const std::string name =
      std::string(kernels().name) + (kernel == LtcKernel::LISTS ? " lists" : " dense") + " B" +
      std::to_string(B) + " T" + std::to_string(T) + " I" + std::to_string(I) + " H" +
      std::to_string(H) + " U" + std::to_string(n.U) + " solver " + std::to_string(n.solver) +
      (mixed ? " mixed" : "") + (resets ? " resets" : "");
  anew.check_gradients(name);
  check_close(name + " v", v, memory.c, ltc_states(n, a, anew));
  // An absent synapse has a gradient of its own in the dense kernel (its weight is a number like
  // any other), and none in the lists.
  if (keep == 1)
    check_gradient(name + " gradient", a, out, memory.out,
                   [&](const auto& x) { return dot(ltc_states(n, x, anew), cotangents); });
  p.saved = p.lstm.gates = nullptr;  // no backward will follow
  std::fill_n(v.get(), v.size, std::numeric_limits<float>::quiet_NaN());
  kernels().ltc_forward(p, kernel);
  check_close(name + " v without saved", v, memory.c, ltc_states(n, a, anew));
  p.saved = saved.get();
  memory.bind(p.lstm);
  check_rows_apart(name, B, memory.with({&in[0], &in[1], &in[2], &dv}, memory.in, memory.dc),
                   memory.with({&v, &out[0], &out[1], &out[2]}, memory.out, memory.c), run);
}

// ---- CfC: arguments x, h0, ts, then backbone (W, b)*, heads (W, b)*, w_tau, A

struct CfcSizes {
  long B, T, I, H, K;
  int layers, mode, activation, heads, head_activation = NCPS_TANH;
  int dropped = 0;  // so many of the last layers
};

double activate(int activation, double z) {
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
  if (n.mode == NCPS_CFC_PURE) a.push_back(draw(H, .1, 1)), a.push_back(draw(H, .5, 1));
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
  anew.check_gradients(name);
  check_close(name + " h", h, memory.c, states(a));
  check_gradient(name + " gradient", a, out, memory.out,
                 [&](const auto& x) { return dot(states(x), cotangents); });
  p.saved = p.lstm.gates = nullptr;  // no backward will follow
  std::fill_n(h.get(), h.size, std::numeric_limits<float>::quiet_NaN());
  kernels().cfc_forward(p);
  check_close(name + " h without saved", h, memory.c, states(a));
  p.saved = saved.get();
  memory.bind(p.lstm);
  check_rows_apart(name, B, memory.with({&in[0], &in[1], &dh}, memory.in, memory.dc),
                   memory.with({&h, &out[0], &out[1]}, memory.out, memory.c), run);
  if (p.ts) check_rows_apart(name, B, {&in[2]}, {&out[2]}, run);
}

// ---- The functions of simd.inl, by kernels that hand them out

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

template <typename Check>
void for_each_isa(Check check) {
  for (auto name = available_kernels(); *name; ++name) {
    choose_kernels(*name);
    check();
  }
  choose_kernels("auto");
}

}  // namespace

NATIVE_TEST(ltc_kernels_equal_the_equations) {
  for_each_isa([] {
    for (const LtcKernel kernel : {LtcKernel::DENSE, LtcKernel::LISTS})
      for (const LtcSizes& n : {LtcSizes{1, 1, 1, 1, 1},
                                {3, 2, 3, 5, 6},
                                {2, 3, 1, 16, 2},
                                {17, 2, 7, 17, 3},
                                {5, 40, 2, 3, 2},
                                {9, 2, 33, 33, 1}})
        for (const long keep : {1, 3, 0}) check_ltc(n, kernel, keep);
  });
}

NATIVE_TEST(ltc_kernels_equal_the_equations_of_every_solver) {
  for_each_isa([] {
    for (const int solver : {NCPS_LTC_EXPLICIT, NCPS_LTC_RUNGE_KUTTA})
      for (const LtcKernel kernel : {LtcKernel::DENSE, LtcKernel::LISTS})
        for (const LtcSizes& n : {LtcSizes{1, 1, 1, 1, 8, solver},
                                  {3, 2, 3, 5, 20, solver},
                                  {17, 2, 7, 17, 40, solver},
                                  {5, 40, 2, 3, 14, solver},
                                  {0, 3, 2, 4, 2, solver},
                                  {3, 0, 2, 4, 2, solver}})
          for (const long keep : {1, 3, 0})
            for (const bool mixed : {false, true}) check_ltc(n, kernel, keep, mixed);
  });
}

NATIVE_TEST(kernels_start_anew_at_resets) {
  for_each_isa([] {
    for (const bool mixed : {false, true}) {
      for (const LtcKernel kernel : {LtcKernel::DENSE, LtcKernel::LISTS})
        for (const LtcSizes& n : {LtcSizes{1, 1, 1, 1, 1},
                                  {3, 6, 3, 5, 3},
                                  {17, 4, 7, 17, 2},
                                  {5, 40, 2, 3, 2},
                                  {0, 3, 2, 4, 2},
                                  {3, 0, 2, 4, 2}})
          for (const int solver :
               {NCPS_LTC_SEMI_IMPLICIT, NCPS_LTC_EXPLICIT, NCPS_LTC_RUNGE_KUTTA}) {
            auto sizes = n;
            sizes.solver = solver, sizes.U *= solver == NCPS_LTC_SEMI_IMPLICIT ? 1 : 8;
            check_ltc(sizes, kernel, 1, mixed, true);
          }
      for (int mode = 0; mode < 3; ++mode) {
        const int heads = mode == NCPS_CFC_PURE ? 1 : 4;
        check_cfc({3, 6, 2, 5, 7, 2, mode, NCPS_SILU, heads}, mixed, true);
        check_cfc({17, 40, 3, 9, 7, 0, mode, NCPS_SILU, heads}, mixed, true);
      }
      check_cfc({0, 3, 2, 4, 3, 1, NCPS_CFC_DEFAULT, NCPS_SILU, 4}, mixed, true);
    }
  });
}

NATIVE_TEST(ltc_kernels_accept_empty_batches_and_sequences) {
  for_each_isa([] {
    for (const LtcKernel kernel : {LtcKernel::DENSE, LtcKernel::LISTS})
      for (const LtcSizes& n : {LtcSizes{0, 3, 2, 4, 2}, {3, 0, 2, 4, 2}, {0, 0, 2, 4, 2}})
        check_ltc(n, kernel, 1);
  });
}

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
    check_cfc({8, 30, 2, 5, 6, 1, NCPS_CFC_DEFAULT, NCPS_LECUN_TANH, 4});   // more than one chunk
  });
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

// MLX's generator, value by value.
Numbers drawn(unsigned a, unsigned b, long n, unsigned long limit, float factor) {
  Numbers out(n);
  const long half = (n + 1) / 2;
  const unsigned keys[] = {a, b, a ^ b ^ 0x1bd11bdau};
  const int turns[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
  for (long i = 0; i < half; ++i) {
    unsigned x = unsigned(i), y = n % 2 && i == half - 1 ? 0 : unsigned(half + i);
    x += keys[0], y += keys[1];
    for (unsigned group = 0; group < 5; ++group) {
      for (int turn : turns[group % 2]) x += y, y = (y << turn | y >> (32 - turn)) ^ x;
      x += keys[(group + 1) % 3], y += keys[(group + 2) % 3] + group + 1;
    }
    out[i] = x < limit ? factor : 0;
    if (half + i < n) out[half + i] = y < limit ? factor : 0;
  }
  return out;
}

NATIVE_TEST(factors_of_dropout_are_those_of_the_generator) {
  for_each_isa([] {
    for (long n : {0, 1, 2, 3, 31, 32, 33, 64, 127, 128, 129, 1000, 4097, 70001})
      for (unsigned long limit : {0ul, 1ul, 3000000000ul, (1ul << 32) - 1, 1ul << 32}) {
        const unsigned key[] = {unsigned(n) * 2654435761u, 77};
        const Exact out(n);
        kernels().draw_factors({key, n, limit, 1.25f, out.get()});
        const auto want = drawn(key[0], key[1], n, limit, 1.25f);
        for (long i = 0; i < n; ++i) CHECK(out.get()[i] == float(want[i]));
      }
  });
}

NATIVE_TEST(cfc_kernels_accept_empty_batches_and_sequences) {
  for_each_isa([] {
    check_cfc({0, 3, 2, 4, 5, 1, NCPS_CFC_DEFAULT, NCPS_TANH, 4});
    check_cfc({3, 0, 2, 4, 5, 1, NCPS_CFC_DEFAULT, NCPS_TANH, 3});
  });
}

NATIVE_TEST(kernels_with_mixed_memory_equal_the_equations) {
  for_each_isa([] {
    for (const LtcSizes& n : {LtcSizes{1, 1, 1, 1, 1},
                              {3, 2, 3, 5, 6},
                              {17, 2, 7, 17, 3},
                              {5, 60, 2, 3, 2},  // more than one chunk
                              {2, 3, 0, 33, 1},
                              {0, 3, 2, 4, 2},
                              {3, 0, 2, 4, 2}})
      for (const LtcKernel kernel : {LtcKernel::DENSE, LtcKernel::LISTS})
        for (const long keep : {1, 3}) check_ltc(n, kernel, keep, true);
    for (int mode = 0; mode < 3; ++mode)
      for (const int layers : {0, 1}) {
        const int heads = mode == NCPS_CFC_PURE ? 1 : 3 + layers;
        check_cfc({3, 3, 2, 5, 7, layers, mode, NCPS_LECUN_TANH, heads}, true);
        check_cfc({17, 30, 3, 17, 6, layers, mode, NCPS_SILU, heads}, true);
      }
    check_cfc({1, 1, 1, 1, 1, 1, NCPS_CFC_DEFAULT, NCPS_TANH, 4}, true);
    check_cfc({0, 3, 2, 4, 5, 1, NCPS_CFC_DEFAULT, NCPS_TANH, 4}, true);
    check_cfc({3, 0, 2, 4, 5, 1, NCPS_CFC_DEFAULT, NCPS_TANH, 3}, true);
  });
}

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

NATIVE_TEST(kernels_hold_with_any_number_of_threads) {
  const CfcSizes n{24, 6, 3, 9, 8, 1, NCPS_CFC_DEFAULT, NCPS_LECUN_TANH, 4};
  for (const int threads : {1, 3}) {
    set_num_threads(threads);
    check_cfc(n);
    check_ltc({24, 3, 3, 9, 2}, LtcKernel::DENSE, 1);
    check_ltc({40, 3, 3, 9, 2}, LtcKernel::LISTS, 1);
  }
  set_num_threads(0);
}
