// The LSTM of mixed memory in the tests: arguments c0, input_weight, bias, recurrent_weight after
// the cell's, then x where it reads inputs of its own; states h, then c.
#pragma once

#include "tests/native/kernels.h"

namespace kernel_tests {

// h -> h* and c -> c' of one row.
inline void lstm_step(const Numbers* memory, const double* x, long I, double* h, double* c,
                      long H) {
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
  long own;  // inputs of its own
  std::vector<Exact> in, out;
  Exact c, gates, dc;
  Memory(bool mixed, const std::vector<Numbers>& a, size_t first, const Numbers& cotangents,
         size_t states, long own_inputs = 0)
      : on(mixed),
        own(own_inputs),
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
    if (own > 0) p.inputs = own, p.x = in[4].get(), p.dx = out[4].get();
  }
  // The arrays that have the batch as axis 0: the cell's and those of the LSTM.
  using Arrays = std::vector<const Exact*>;
  Arrays with(Arrays cell, const std::vector<Exact>& first, const Exact& states) const {
    if (on) cell.insert(cell.end(), {&first[0], &states});
    return cell;
  }
};

// own: numbers of the inputs of its own, in all.
inline void draw_memory(Draw& draw, size_t B, size_t I, size_t H, std::vector<Numbers>& a,
                        size_t own = 0) {
  for (const size_t size : {B * H, 4 * H * I, 4 * H, 4 * H * H}) a.push_back(draw(size, -1, 1));
  if (own > 0) a.push_back(draw(own, -1, 1));
}

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
  // loss: of other states to start anew from.
  template <typename Loss>
  void check_gradients(const std::string& name, bool mixed, Loss loss) const {
    if (in.empty()) return;
    for (size_t i = 0; i < in[0].size; ++i)
      require(out[0].data[i] == 0, name + ": resets have a gradient");
    check_gradient(name + " gradient of the states that start anew",
                   mixed ? std::vector<Numbers>{h, c} : std::vector<Numbers>{h}, {}, out, 1,
                   [&](const auto& x) {
                     Anew other;
                     other.at = at, other.h = x[0], other.c = mixed ? x[1] : c;
                     return loss(other);
                   });
  }
};

}  // namespace kernel_tests
