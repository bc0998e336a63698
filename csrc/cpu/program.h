// Step programs as the kernels read them: one step of any cell as a list of instructions on rows of
// numbers. csrc/program.h builds and checks them. Plain C types only, as in kernels.h.
#pragma once

namespace mlx_ncps {

// NAME, name, operands. Comparisons and logic give 1 and 0; SELECT takes its second operand where
// the first is not 0.
#define NCPS_PROGRAM_OPS(X)  \
  X(NEG, neg, 1)             \
  X(ABS, abs, 1)             \
  X(EXP, exp, 1)             \
  X(LOG, log, 1)             \
  X(LOG1P, log1p, 1)         \
  X(SQRT, sqrt, 1)           \
  X(RSQRT, rsqrt, 1)         \
  X(SQUARE, square, 1)       \
  X(SIGMOID, sigmoid, 1)     \
  X(TANH, tanh, 1)           \
  X(ERF, erf, 1)             \
  X(SIGN, sign, 1)           \
  X(NOT, not, 1)             \
  X(ADD, add, 2)             \
  X(SUB, sub, 2)             \
  X(MUL, mul, 2)             \
  X(DIV, div, 2)             \
  X(MAX, max, 2)             \
  X(MIN, min, 2)             \
  X(LOGADDEXP, logaddexp, 2) \
  X(GT, gt, 2)               \
  X(GE, ge, 2)               \
  X(LT, lt, 2)               \
  X(LE, le, 2)               \
  X(EQ, eq, 2)               \
  X(NE, ne, 2)               \
  X(AND, and, 2)             \
  X(OR, or, 2)               \
  X(SELECT, select, 3)       \
  X(MOVE, move, 1)           \
  X(SUM, sum, 1)             \
  X(EXPAND, expand, 1)       \
  X(SOFTMAX, softmax, 1)     \
  X(MATMUL, matmul, 3)

enum class ProgramOp : int {
#define NCPS_NAME(NAME, name, operands) NAME,
  NCPS_PROGRAM_OPS(NCPS_NAME)
#undef NCPS_NAME
};

// A value is one row of numbers for each batch row (varying), or the same for all (fixed). Memory
// of a varying one: [rows][stride] from `at` times the rows; of a fixed one from `at`, -1 where it
// is a captured array that only products read.
struct ProgramValue {
  long size, stride, at;
  bool varying;
  long slab_at;  // of a fixed one in a task's gradients, -1: steps read it in products alone
};

// ints: MOVE runs of (to, from, length, 0 or 1: what `from` advances by); SUM and EXPAND outer,
// mid, inner; SOFTMAX outer, n. MATMUL: in[1] is the matrix, in[2] the bias or -1.
struct ProgramInstruction {
  ProgramOp op;
  int out, in[3];
  const int* ints;
  int count;
  int matrix;  // of MATMUL, in ProgramPlan::matrix
  bool flat;   // all operands lie without gaps: the rows are one
};

// A matrix of products, [k, n], or [n, k] if transposed; memory in floats.
struct ProgramMatrix {
  int value;
  long k, n;
  bool transposed;
  long panels, back_panels, slab_at;
};

struct ProgramPlan {
  int values, captured, steps, states, outputs, constants, matrices, once, step;
  const ProgramValue* value;
  const int* constant_id;
  const float* constant;
  const ProgramInstruction *once_code, *step_code;
  const ProgramMatrix* matrix;
  const int *next, *output;
  long row_floats, fixed_floats, slab_floats;  // memory of a row, of fixed values, of gradients
};

// A step program over a sequence. Value ids: captured arrays, inputs of a step, states, others.
struct ProgramProblem {
  const ProgramPlan* plan;
  long B, T;
  const float *const *captured, *const *steps, *const *states;  // steps [B, T, n], states [B, n]
  const float* resets;                  // [B, T], not 0 where the states start anew; or null
  const float* const* reset_states;     // from these; may be `states`
  float *const *next, *const *outputs;  // [B, T, n] each
  const float *const *dnext, *const *doutputs;
  float *const *dcaptured, *const *dsteps, *const *dstates, *const *dreset_states;
};

}  // namespace mlx_ncps
