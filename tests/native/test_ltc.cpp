// The LTC's kernels: arguments x, v0, ts, cm, leak_num, leak_den, s2, m2, w, we, sensory s2, m2, w,
// we.
#include "csrc/cpu/thread_pool.h"
#include "metal/ltc.h"
#include "tests/native/mixed_memory.h"

namespace {

using namespace mlx_ncps;
using namespace kernel_tests;

struct LtcSizes {
  long B, T, I, H, U;
  int solver = NCPS_LTC_SEMI_IMPLICIT;
  bool no_capacity = false;  // cm is 0
  long own = 0;              // inputs that the LSTM reads in place of x
  bool one_sided = false;    // w of source 0 and we of source 1 are 0
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
    const long read = n.own > 0 ? n.own : n.I;
    for (long b = 0; mixed && b < n.B; ++b)
      lstm_step(&a[14], a[n.own > 0 ? 18 : 0].data() + (b * n.T + t) * read, read,
                v.data() + b * n.H, c.data() + b * n.H, n.H);
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

void run_packed(const LtcProblem& p, LtcKernel kernel) {
  auto cell = p;  // without the arrays of a call
  cell.B = cell.T = 1, cell.x = cell.v0 = cell.ts = nullptr, cell.v = nullptr;
  cell.lstm.c0 = nullptr, cell.lstm.c = nullptr;
  void* packed = kernels().new_packed_ltc(cell);
  auto call = p;  // without the parameters
  call.cm = call.leak_num = call.leak_den = nullptr, call.recurrent = call.sensory = {};
  call.recurrent_list = call.sensory_list = nullptr;
  call.lstm.input_weight = call.lstm.bias = call.lstm.recurrent_weight = nullptr;
  kernels().run_packed_ltc(packed, call, kernel);
  kernels().free_packed_ltc(packed);
}

bool absent(long synapse, long keep) { return keep == 0 || synapse % keep != 0; }

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
  if (n.no_capacity)
    a[2] = draw(B * T, .1, 2), a[3] = Numbers(H, 0);
  else if (T > 0 && B > 0)
    a[2][0] = 0;
  std::vector<Synapse> lists[2];
  for (int sensory = 0; sensory < 2; ++sensory)
    for (int j = 0; j < n.H; ++j)
      for (int i = 0; i < (sensory ? n.I : n.H); ++i) {
        const long at = i * n.H + j;
        if (absent(at, keep))
          a[sensory ? 12 : 8][at] = a[sensory ? 13 : 9][at] = 0;
        else
          lists[sensory].push_back({i, j});
      }
  for (long source = 0; n.one_sided && source < 2; ++source)
    for (int weight : {8, 12}) std::fill_n(a[weight + source].begin() + source * n.H, n.H, 0);
  if (mixed) draw_memory(draw, B, n.own > 0 ? n.own : I, H, a, B * T * n.own);
  std::vector<Exact> in(a.begin(), a.begin() + 14), out;
  for (const auto& each : in) out.emplace_back(each.size);
  const auto cotangents = draw((mixed ? 2 : 1) * B * T * H, -1, 1);
  const Exact v(B * T * H), saved(B * T * n.evaluations() * 2 * H),
      dv(Numbers(cotangents.begin(), cotangents.begin() + long(B * T * H)));
  const Memory memory(mixed, a, 14, cotangents, B * T * H, n.own);
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
  anew.check_gradients(name, mixed,
                       [&](const Anew& other) { return dot(ltc_states(n, a, other), cotangents); });
  check_close(name + " v", v, memory.c, ltc_states(n, a, anew));
  // An absent synapse has a gradient of its own in the dense kernel (its weight is a number like
  // any other), and none in the lists.
  for (int array = 6; kernel == LtcKernel::LISTS && array < 14; ++array)
    for (size_t at = 0; at < out[array].size; ++at)
      require(!absent(long(at), keep) || out[array].data[at] == 0,
              name + ": a synapse that is not there has a gradient");
  if (keep == 1)
    check_gradient(name + " gradient", a, out, memory.out,
                   [&](const auto& x) { return dot(ltc_states(n, x, anew), cotangents); });
  p.saved = p.lstm.gates = nullptr;  // no backward will follow
  std::fill_n(v.get(), v.size, std::numeric_limits<float>::quiet_NaN());
  kernels().ltc_forward(p, kernel);
  check_close(name + " v without saved", v, memory.c, ltc_states(n, a, anew));
  if (p.recurrent_list || kernel == LtcKernel::DENSE)
    check_packed(name, {&v, &memory.c}, [&] { run_packed(p, kernel); });
  p.saved = saved.get();
  memory.bind(p.lstm);
  check_rows_apart(name, B, memory.with({&in[0], &in[1], &in[2], &dv}, memory.in, memory.dc),
                   memory.with({&v, &out[0], &out[1], &out[2]}, memory.out, memory.c), run);
  if (B == 0 || T == 0) return;
  check_gives_up(name, [&] { kernels().ltc_forward(p, kernel); });
  check_gives_up(name, [&] { kernels().ltc_backward(p, kernel); });
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

NATIVE_TEST(ltc_kernels_without_capacity_equal_the_equations) {
  for_each_isa([] {
    for (const LtcKernel kernel : {LtcKernel::DENSE, LtcKernel::LISTS})
      for (const long B : {1, 3, 16, 17})
        for (const bool mixed : {false, true})
          check_ltc({B, 3, 3, 5, 4, NCPS_LTC_SEMI_IMPLICIT, true}, kernel, 1, mixed);
  });
}

NATIVE_TEST(ltc_kernels_accept_empty_batches_and_sequences) {
  for_each_isa([] {
    for (const LtcKernel kernel : {LtcKernel::DENSE, LtcKernel::LISTS})
      for (const LtcSizes& n : {LtcSizes{0, 3, 2, 4, 2}, {3, 0, 2, 4, 2}, {0, 0, 2, 4, 2}})
        check_ltc(n, kernel, 1);
  });
}

NATIVE_TEST(ltc_kernels_with_mixed_memory_equal_the_equations) {
  for_each_isa([] {
    for (const LtcSizes& n : {LtcSizes{1, 1, 1, 1, 1},
                              {3, 2, 3, 5, 6},
                              {17, 2, 7, 17, 3},
                              {5, 60, 2, 3, 2},   // more than one chunk
                              {16, 2, 2, 16, 2},  // whole vectors
                              {2, 3, 0, 33, 1},
                              {0, 3, 2, 4, 2},
                              {3, 0, 2, 4, 2}})
      for (const LtcKernel kernel : {LtcKernel::DENSE, LtcKernel::LISTS})
        for (const long keep : {1, 3}) check_ltc(n, kernel, keep, true);
  });
}

NATIVE_TEST(ltc_kernels_whose_lstm_has_inputs_of_its_own_equal_the_equations) {
  for_each_isa([] {
    for (const long own : {1, 2, 21})
      for (const long B : {3, 17})
        for (const LtcKernel kernel : {LtcKernel::DENSE, LtcKernel::LISTS})
          check_ltc({B, 3, 2, 5, 2, NCPS_LTC_SEMI_IMPLICIT, false, own}, kernel, 1, true);
  });
}

NATIVE_TEST(ltc_kernels_keep_sources_of_which_one_weight_is_0) {
  for_each_isa([] {
    for (const LtcKernel kernel : {LtcKernel::DENSE, LtcKernel::LISTS})
      for (const LtcSizes& n : {LtcSizes{3, 2, 3, 5, 3}, {3, 2, 2, 33, 2}}) {
        auto sizes = n;
        sizes.one_sided = true;
        check_ltc(sizes, kernel, 1);
      }
  });
}

NATIVE_TEST(ltc_kernels_hold_with_any_number_of_threads) {
  for (const int threads : {1, 3}) {
    set_num_threads(threads);
    check_ltc({24, 3, 3, 9, 2}, LtcKernel::DENSE, 1);
    check_ltc({40, 3, 3, 9, 2}, LtcKernel::LISTS, 1);
  }
  set_num_threads(0);
}

NATIVE_TEST(ltc_kernels_start_anew_at_resets) {
  for_each_isa([] {
    for (const bool mixed : {false, true})
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
  });
}
