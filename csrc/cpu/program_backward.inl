// The backward of program.inl: from the last step to the first, each step runs again and then its
// instructions from the end. Products' gradients are gathered over some steps and added as one
// product. Each task owns one slab of what all rows share; slabs are summed in a fixed order.
#pragma once

#include "csrc/cpu/program.inl"
#include "csrc/cpu/program_slopes.inl"

namespace mlx_ncps {
namespace {

constexpr long GATHERED_ROWS = 64;  // of a product's inputs and gradients, before they are added

// What a task works in: values and gradients of its rows, the gradients that go on to the step
// before, and for each matrix the rows gathered so far.
struct ProgramTask {
  float *values, *gradients, *packed;
  float **carry, **inputs, **slopes;  // of each state; of each matrix [GATHERED_ROWS][k], [..][n]
  long* gathered;
};

template <typename T>
static T* take_array(Carver& memory, long count) {
  return reinterpret_cast<T*>(memory.take(count * long(sizeof(T) / sizeof(float))));
}

static ProgramTask take_task(const ProgramPlan& k, long rows, Carver& memory) {
  ProgramTask f{memory.take(rows * k.row_floats),
                memory.take(rows * k.row_floats),
                nullptr,
                take_array<float*>(memory, k.states),
                take_array<float*>(memory, k.matrices),
                take_array<float*>(memory, k.matrices),
                take_array<long>(memory, k.matrices)};
  long widest = 0;
  for (int n = 0; n < k.matrices; ++n)
    if (k.matrix[n].n > widest) widest = k.matrix[n].n;
  f.packed = memory.take(panel_floats(GATHERED_ROWS, widest));
  const auto set = [&](float** at, int n, long floats) {
    float* taken = memory.take(floats);
    if (memory.base) at[n] = taken;
  };
  for (int s = 0; s < k.states; ++s) set(f.carry, s, rows * k.value[k.captured + k.steps + s].size);
  for (int n = 0; n < k.matrices; ++n) {
    set(f.inputs, n, GATHERED_ROWS * k.matrix[n].k);
    set(f.slopes, n, GATHERED_ROWS * k.matrix[n].n);
    if (memory.base) f.gathered[n] = 0;
  }
  return f;
}

// A task's share of the gradients of all that is fixed.
struct ProgramSlab {
  float *fixed, *matrices;
};

static ProgramSlab take_slab(const ProgramPlan& k, Carver& memory) {
  long floats = 0;
  for (int n = 0; n < k.matrices; ++n) floats += k.matrix[n].k * round_up(k.matrix[n].n, NR);
  return {memory.take(k.slab_floats), memory.take(floats)};
}

// Adds the rows that a matrix has gathered to its gradient [k][n, whole panels].
static void add_gathered(const ProgramPlan& k, int n, const ProgramTask& f,
                         const ProgramSlab& slab) {
  const ProgramMatrix& x = k.matrix[n];
  const long depth = f.gathered[n], columns = round_up(x.n, NR);
  if (depth == 0) return;
  const float* slopes = f.slopes[n];
  pack_panels([&](long d) { return slopes + d * x.n; }, depth, x.n, 1, f.packed);
  gemm(f.inputs[n], 1, x.k, x.k, f.packed, depth, x.n, slab.matrices + x.slab_at, columns, true);
  f.gathered[n] = 0;
}

static void product_backward(const ProgramPlan& k, const ProgramInstruction& i,
                             const ProgramMemory& m, const ProgramGradients& g,
                             const float* back_panels, const ProgramTask& f,
                             const ProgramSlab& slab, long rows) {
  const ProgramMatrix& x = k.matrix[i.matrix];
  const Place a = place_of(k, m, i.in[0], 0), da = g.of(k, i.in[0], 0), dc = g.of(k, i.out, 0);
  gemm(dc.at, dc.row, 1, rows, back_panels + x.back_panels, x.n, x.k, da.at, da.row, true);
  if (i.in[2] >= 0) {
    const Place bias = g.of(k, i.in[2], 0);
    if (bias.at) add_column_sums(dc.at, rows, dc.row, x.n, bias.at);
  }
  if (f.gathered[i.matrix] + rows > GATHERED_ROWS) add_gathered(k, i.matrix, f, slab);
  const long at = f.gathered[i.matrix];
  for (long r = 0; r < rows; ++r) {
    copy(f.inputs[i.matrix] + (at + r) * x.k, a.at + r * a.row, x.k);
    copy(f.slopes[i.matrix] + (at + r) * x.n, dc.at + r * dc.row, x.n);
  }
  f.gathered[i.matrix] += rows;
}

// to's gradient += [rows][T][n] at a step.
static void add_seed(const ProgramPlan& k, const ProgramGradients& g, int id, long rows,
                     const float* from, long stride) {
  const Place to = g.of(k, id, 0);
  for (long r = 0; r < rows && to.at; ++r)
    add_to(to.at + r * to.row, from + r * stride, k.value[id].size);
}

static void program_backward_step(const ProgramProblem& p, const ProgramFixed& f,
                                  const ProgramTask& task, const ProgramSlab& slab, long b,
                                  long rows, long capacity, long t) {
  stop_if_interrupted();
  const ProgramPlan& k = *p.plan;
  const ProgramMemory m{task.values, f.fixed, p.captured, capacity};
  const ProgramGradients g{task.gradients, slab.fixed, capacity, false};
  program_step(p, f, m, b, rows, t);
  fill(task.gradients, capacity * k.row_floats, 0.0f);
  for (int s = 0; s < k.states; ++s) {
    const long n = k.value[k.next[s]].size;
    add_seed(k, g, k.next[s], rows, p.dnext[s] + (b * p.T + t) * n, p.T * n);
    if (t + 1 < p.T) add_seed(k, g, k.next[s], rows, task.carry[s], n);
  }
  for (int s = 0; s < k.outputs; ++s) {
    const long n = k.value[k.output[s]].size;
    add_seed(k, g, k.output[s], rows, p.doutputs[s] + (b * p.T + t) * n, p.T * n);
  }
  for (int n = k.step - 1; n >= 0; --n) {
    const ProgramInstruction& i = k.step_code[n];
    if (i.op == ProgramOp::MATMUL)
      product_backward(k, i, m, g, f.back_panels, task, slab, rows);
    else
      instruction_backward(k, i, m, g, rows);
  }
  for (int s = 0; s < k.steps; ++s) {
    const Place d = g.of(k, k.captured + s, 0);
    const long n = k.value[k.captured + s].size;
    for (long r = 0; r < rows; ++r)
      copy(p.dsteps[s] + ((b + r) * p.T + t) * n, d.at + r * d.row, n);
  }
  for (int s = 0; s < k.states; ++s) {
    const int id = k.captured + k.steps + s;
    const Place d = g.of(k, id, 0);
    const long n = k.value[id].size;
    for (long r = 0; r < rows; ++r) {
      const bool anew = starts_anew(p, b + r, t);
      const float* from = d.at + r * d.row;
      float* carry = task.carry[s] + r * n;
      if (!anew && t > 0) {
        copy(carry, from, n);
        continue;
      }
      fill(carry, n, 0.0f);
      add_to((anew ? p.dreset_states : p.dstates)[s] + (b + r) * n, from, n);
    }
  }
}

static void program_backward_rows(const ProgramProblem& p, const ProgramFixed& f,
                                  const ProgramSlab& slab, long b, long rows) {
  const ProgramPlan& k = *p.plan;
  const Slabs memory([&](Carver& m) { return take_task(k, rows, m); }, 1);
  fill(memory.memory.data, memory.stride, 0.0f);
  const ProgramTask task = memory.of(0);
  for (int s = 0; s < k.states; ++s) {
    const long n = k.value[k.captured + k.steps + s].size;
    fill(p.dstates[s] + b * n, rows * n, 0.0f);
    fill(p.dreset_states[s] + b * n, rows * n, 0.0f);
  }
  for (long t = p.T - 1; t >= 0; --t) program_backward_step(p, f, task, slab, b, rows, rows, t);
  for (int n = 0; n < k.matrices; ++n) add_gathered(k, n, task, slab);
}

// The sums of all slabs, then the instructions that ran once, from the end.
template <typename Layout>
static void finish_fixed(const ProgramProblem& p, const ProgramFixed& f,
                         const Slabs<Layout>& slabs) {
  const ProgramPlan& k = *p.plan;
  const ProgramSlab first = slabs.of(0);
  const Scratch gradients(k.fixed_floats + 1);
  fill(gradients.data, k.fixed_floats, 0.0f);
  for (int id = 0; id < k.captured; ++id) fill(p.dcaptured[id], k.value[id].size, 0.0f);
  for (int id = 0; id < k.values; ++id) {
    const ProgramValue& v = k.value[id];
    if (v.varying || v.slab_at < 0) continue;
    for (long q = 0; q < v.size; ++q)
      gradients.data[v.at + q] = slabs.sum(first.fixed + v.slab_at + q);
  }
  for (int n = 0; n < k.matrices; ++n) {
    const ProgramMatrix& x = k.matrix[n];
    const long at = k.value[x.value].at, columns = round_up(x.n, NR);
    float* out = at < 0 ? p.dcaptured[x.value] : gradients.data + at;
    for (long d = 0; d < x.k; ++d)
      for (long c = 0; c < x.n; ++c)
        out[x.transposed ? c * x.k + d : d * x.n + c] +=
            slabs.sum(first.matrices + x.slab_at + d * columns + c);
  }
  const ProgramMemory m{nullptr, f.fixed, p.captured, 1};
  const ProgramGradients g{nullptr, gradients.data, 1, true};
  for (int n = k.once - 1; n >= 0; --n) instruction_backward(k, k.once_code[n], m, g, 1);
  for (int id = 0; id < k.captured; ++id)
    if (k.value[id].at >= 0)
      copy(p.dcaptured[id], gradients.data + k.value[id].at, k.value[id].size);
}

static void program_backward(const ProgramProblem& p) {
  const ProgramPlan& k = *p.plan;
  const Carved f([&](Carver& memory) { return take_fixed(p, true, true, memory); });
  fill_fixed(p, f.arrays, true, true);
  // From the shape alone: results do not depend on the number of threads.
  const long rows = program_rows(k, p.B, 2, share_work(p.B * p.T * program_operations(k), 2)),
             blocks = (p.B + rows - 1) / rows, tasks = min_of(blocks, MAX_SLABS);
  const Slabs slabs([&](Carver& memory) { return take_slab(k, memory); }, tasks);
  auto body = [&](long task) {
    const ProgramSlab slab = slabs.cleared(task);
    for (long block = blocks * task / tasks; block < blocks * (task + 1) / tasks; ++block)
      program_backward_rows(p, f.arrays, slab, block * rows, min_of(rows, p.B - block * rows));
  };
  parallel(tasks, body);
  finish_fixed(p, f.arrays, slabs);
}

}  // namespace
}  // namespace mlx_ncps
