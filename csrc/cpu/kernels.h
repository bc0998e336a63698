// The CPU kernels as a table of plain functions, one table per instruction set; kernels() is the
// chosen one. Plain C types only: this header is compiled with and without AVX.
#pragma once

#include <utility>

#include "csrc/cpu/cache_line.h"
#include "csrc/cpu/program.h"

namespace mlx_ncps {

// One synapse of a list; `source` reads, `target` is driven.
struct Synapse {
  int source, target;
};

// Dense folded synapse parameters, row-major [sources, units].
struct SynapseMatrices {
  const float *s2, *m2, *w, *we;
};
struct SynapseGradients {
  float *s2, *m2, *w, *we;
};

// The LSTM of mixed memory in front of a cell (MATHS 4): step t of the cell reads h* in place of h.
// input_weight [4H, I], bias [4H] and recurrent_weight [4H, H] are split in the order i, ig, fg,
// og.
struct LstmProblem {
  bool on;      // without: all else is unset
  long inputs;  // what it reads in place of the cell's x: [B, T, inputs]; x null where it is that
  const float* x;
  float* dx;
  const float *c0, *input_weight, *bias, *recurrent_weight;  // c0 [B, H]
  float* c;                                                  // [B, T, H], as the states of the cell
  float* gates;     // [B, T, 4, H]: tanh(i), sigma(ig), sigma(fg + 1), sigma(og); null as `saved`
  const float* dc;  // [B, T, H]
  float *dc0, *dinput_weight, *dbias, *drecurrent_weight;
  const float* c_anew;  // [B, H]: c of a step that starts anew
  float* dc_anew;
};

// Steps that start anew: where `at` [B, T] is not 0, a step reads `state` [B, H] in place of the
// state before it. Without such steps all is null.
struct ResetsProblem {
  const float *at, *state;
  float *dat, *dstate;  // dat: zeros
};

// DENSE: lanes are neurons, all synapses. LISTS: lanes are batch rows, the synapses of the lists.
enum class LtcKernel { DENSE, LISTS };

// A whole LTC sequence (MATHS 3). The recurrent synapses are evaluated E = U stages times in a
// step, once for each stage of each unfold. The layout of `saved`: DENSE [B, T, E, 2, H], LISTS [B
// / element, then blocks of `lanes` rows of an element][T, E, H, 2, rows of the block].
struct LtcProblem {
  long B, T, I, H, U;
  int solver;                                    // an NcpsLtcSolver of metal/ltc.h
  long element;                                  // rows of one element of a mapped batch, else B
  const float *x, *v0, *ts;                      // [B, T, I], [B, H], [B, T]
  const float *cm, *leak_num, *leak_den;         // [H]
  SynapseMatrices recurrent, sensory;            // [H, H], [I, H]
  const Synapse *recurrent_list, *sensory_list;  // sorted by target; LISTS only
  long recurrent_count, sensory_count;
  float* v;      // [B, T, H]: written by the forward, read by the backward
  float* saved;  // n and d of every evaluation; null where no backward will follow
  // backward
  const float* dv;        // [B, T, H]
  float *dx, *dv0, *dts;  // [B, T, I], [B, H], [B, T]
  float *dcm, *dleak_num, *dleak_den;
  SynapseGradients drecurrent, dsensory;
  LstmProblem lstm;
  ResetsProblem resets;
};

constexpr int MAX_CFC_LAYERS = 15;                  // of a backbone
constexpr int MAX_CFC_STAGES = MAX_CFC_LAYERS + 1;  // and the heads

// A whole CfC sequence (MATHS 1). Stage s < layers is a backbone layer, stage `layers` the heads
// side by side. `saved` [B, T, S] holds per step what the backward needs: each backbone layer's
// output before dropout (or pre-activation, where the slope needs it), then F1, F2, g, and a unless
// merged; in pure mode f.
struct CfcProblem {
  long B, T, I, H;
  int layers, mode, activation, heads;  // heads: 4 [f1, f2, a, b], 3 merged [f1, f2, u], 1 pure [f]
  int head_activation;                  // F = activation(f): NCPS_TANH, _LECUN_TANH or _IDENTITY
  long width[MAX_CFC_LAYERS];           // units of each backbone layer
  // Layers from first_dropped on are dropped, by these factors: their outputs side by side,
  // [B, T, dropped_width]; null where none is.
  int first_dropped;
  long dropped_width;
  const float* dropout;
  const float *x, *h0, *ts;                                    // ts [B, T]; null when merged
  const float *weight[MAX_CFC_LAYERS], *bias[MAX_CFC_LAYERS];  // backbone, [out, in]
  const float *head_weight[4], *head_bias[4];                  // [H, in]
  const float *w_tau, *A;                                      // pure
  float* h;                                                    // [B, T, H]
  float* saved;                                                // [B, T, S] or null
  long saved_width;
  const float* dh;                   // [B, T, H]
  float *dx, *dh0, *dts, *ddropout;  // ddropout: all 0
  float *dweight[MAX_CFC_LAYERS], *dbias[MAX_CFC_LAYERS], *dhead_weight[4], *dhead_bias[4], *dw_tau,
      *dA;
  LstmProblem lstm;
  ResetsProblem resets;
};

// Factors of dropout from random bits as MLX draws them (csrc/dropout.h): out [n] is `factor` where
// the bits are below `limit`, else 0.
struct FactorsProblem {
  const unsigned* key;  // 2
  long n;
  unsigned long limit;  // at most 2^32
  float factor;
  float* out;
};

// Functions beside the activations: 2^z, 1 / (1 + 2^z), erf(z).
enum Maths { MATHS_EXP2 = 16, MATHS_LOGISTIC, MATHS_ERF };

struct Kernels {
  const char* name;
  int lanes;
  void (*ltc_forward)(const LtcProblem&, LtcKernel);
  void (*ltc_backward)(const LtcProblem&, LtcKernel);
  void (*cfc_forward)(const CfcProblem&);
  void (*cfc_backward)(const CfcProblem&);
  // A cell with its parameters packed once: `run` takes a problem of the same cell, of which it
  // reads B, T, x, ts and the initial state, and writes the states; on any thread.
  void* (*new_packed_ltc)(const LtcProblem&);
  void (*run_packed_ltc)(const void* packed, const LtcProblem&, LtcKernel);
  void (*free_packed_ltc)(void* packed);
  void* (*new_packed_cfc)(const CfcProblem&);
  void (*run_packed_cfc)(const void* packed, const CfcProblem&);
  void (*free_packed_cfc)(void* packed);
  void (*program_forward)(const ProgramProblem&);
  void (*program_backward)(const ProgramProblem&);
  // `run` reads the same plan, but no captured arrays.
  void* (*new_packed_program)(const ProgramProblem&);
  void (*run_packed_program)(const void* packed, const ProgramProblem&);
  void (*free_packed_program)(void* packed);
  // The arithmetic alone, for the benchmarks: `limit_block` vectors a round.
  int limit_block;
  float (*run_gates)(long rounds);
  float (*run_multiply_adds)(long rounds);
  void (*draw_factors)(const FactorsProblem&);
  // The maths alone, for tests: out [n] = f(z [n]), or f'(z) with `slope`, for an NcpsActivation of
  // metal/activations.h or a Maths, which have no slope.
  void (*run_maths)(int function, bool slope, const float* z, long n, float* out);
};

// What the instruction-set files may use of the C++ library, compiled once for the baseline
// (csrc/cpu/isa.cpp).
void run_parallel(long count, void (*body)(void* context, long index), void* context);
void run_chains(long threads, long chains, long links,
                void (*body)(void* context, long thread, long chain, long link), void* context);
long parallel_threads();  // that run_parallel may use
// Throws std::invalid_argument for a number of `what` that is none of the list's.
[[noreturn]] void unknown_choice(const char* what, int number);
// Not 0: work for Python's main thread is to be given up; stop_work() throws where it is such work.
extern int gave_up;
void stop_work();
float* allocate_floats(long count);  // aligned to CACHE_LINE; throws std::bad_alloc
void free_floats(float* p);

// Per second, what all threads reach together, measured for about 0.2 s.
enum class Limit { GATES, MULTIPLY_ADDS };
double vector_limit(Limit limit);

const Kernels& kernels();                // the chosen table
void choose_kernels(const char* name);   // or "auto"; std::invalid_argument where this CPU lacks it
const char* const* available_kernels();  // names, best first, null-terminated

const Kernels& kernels_baseline();
#ifdef MLX_NCPS_X86
const Kernels& kernels_avx2();
const Kernels& kernels_avx512();
#endif

}  // namespace mlx_ncps
