// Mixed memory (MATHS 4): an LSTM in front of a cell as a wrapper of the cell's Op (see
// sequence_primitive.h).
#pragma once

#include <utility>

#include "csrc/cpu/kernels.h"
#include "csrc/sequence_primitive.h"

namespace mlx_ncps {

// The LSTM's arrays as csrc/fields.h lists them: its state, and its weights.
template <typename F>
void lstm_state_field(LstmProblem& l, long B, long H, const F& f) {
  f("c0", "[B, H]", {B, H}, l.c0, l.dc0);
}
template <typename F>
void lstm_weight_fields(LstmProblem& l, long I, long H, const F& f) {
  f("input_weight", "[4H, I]", {4 * H, I}, l.input_weight, l.dinput_weight);
  f("bias", "[4H]", {4 * H}, l.bias, l.dbias);
  f("recurrent_weight", "[4H, H]", {4 * H, H}, l.recurrent_weight, l.drecurrent_weight);
}

// The shapes of the weights for I inputs and H neurons.
inline Shapes lstm_shapes(const char* op, int I, int H) {
  size_of(op, "4 units", 4L * H);
  LstmProblem l{};
  Shapes shapes;
  lstm_weight_fields(l, I, H, [&](const char*, const char*, const Sizes& sizes, auto&&...) {
    shapes.push_back(sizes.shape());
  });
  return shapes;
}

// Inputs: c0, with resets the c to start anew from, the cell's, input_weight, bias,
// recurrent_weight, and with `own_x` what the LSTM reads in place of the cell's x; states: h of the
// cell, c.
template <typename Cell>
struct Mixed {
  static constexpr const char *NAME = Cell::MIXED_NAME, *BACKWARD_NAME = Cell::MIXED_BACKWARD_NAME,
                              *CALL = Cell::CALL;
  static constexpr int STATES = 2;
  using Problem = typename Cell::Problem;

  Cell cell;
  bool own_x = false;

  bool operator==(const Mixed&) const = default;
  int inputs() const { return count_fields(*this, cell.shaped()); }
  Problem sized(const Arrays& in) const {
    auto p = cell.sized(of_cell(in));
    size_of(CALL, "4 units", 4 * p.H);
    set_inputs(p, in);
    return p;
  }
  template <typename F>
  void fields(Problem& p, const F& f) const {
    lstm_state_field(p.lstm, p.B, p.H, f);
    if (cell.resets) f("reset_state c", "[B, H]", {p.B, p.H}, p.lstm.c_anew, p.lstm.dc_anew);
    cell.fields(p, f);
    lstm_weight_fields(p.lstm, own_x ? p.lstm.inputs : p.I, p.H, f);
    if (own_x)
      f("inputs of the memory", "[B, T, M]", {p.B, p.T, p.lstm.inputs}, p.lstm.x, p.lstm.dx);
  }
  Mixed of_mapped(int rows) const { return {cell.of_mapped(rows)}; }
  int batched() const { return own_x ? 0 : first() + cell.batched(); }
  mx::Shape states_shape(const Arrays& in) const { return cell.states_shape(of_cell(in)); }
  Shapes saved_shapes(const Arrays& in) const {
    auto shapes = cell.saved_shapes(of_cell(in));
    const auto s = states_shape(in);
    shapes.push_back({s[0], s[1], 4, s[2]});
    return shapes;
  }
  std::vector<int> saved_batch_axes() const {
    auto axes = cell.saved_batch_axes();
    axes.push_back(0);
    return axes;
  }

  // out: h, c, and where saved the cell's, the gates.
  Problem forward_problem(const Arrays& in, Arrays out) const {
    const bool save = out.size() > 2;
    auto p = cell.forward_problem(of_cell(in), save ? Arrays{out[0], out[2]} : Arrays{out[0]});
    set_lstm(p, in, out[1], save ? out[3].data<float>() : nullptr);
    return p;
  }

  // in: the inputs, h, c, the cell's saved, the gates, dh, dc.
  Problem backward_problem(const Arrays& in, Arrays out) const {
    const auto kept = in.begin() + inputs();
    auto of = of_cell(in);
    of.insert(of.end(), {kept[0], kept[2], kept[4]});
    auto p = cell.backward_problem(of, of_cell(out));
    mx::array gates = kept[3];
    set_lstm(p, in, kept[1], gates.data<float>());
    write_fields(*this, p, out);
    p.lstm.dc = kept[5].template data<float>();
    return p;
  }

  void forward(const Problem& p) const { cell.forward(p); }
  void backward(const Problem& p) const { cell.backward(p); }

 private:
  int first() const { return cell.resets ? 2 : 1; }  // of the cell's inputs
  Arrays of_cell(const Arrays& in) const {
    return Arrays(in.begin() + first(), in.begin() + first() + cell.inputs());
  }
  void set_inputs(Problem& p, const Arrays& in) const {
    if (!own_x) return;
    const auto& x = in[inputs() - 1];
    check_rank(CALL, "inputs of the memory", x, 3, "[B, T, M]");
    p.lstm.inputs = x.shape(2);
  }
  void set_lstm(Problem& p, const Arrays& in, mx::array c, float* gates) const {
    set_inputs(p, in);
    read_fields(*this, p, in);
    p.lstm.on = true;
    p.lstm.c = c.data<float>(), p.lstm.gates = gates;
  }
};

// c0 [B, H], input_weight [4H, I], bias [4H], recurrent_weight [4H, H]: what a call with mixed
// memory has besides the cell's arguments; then [B, T, M] where the LSTM does not read the cell's
// x.
using MemoryArrays = Arrays;

// [B, T] of where a sequence starts anew and the states [B, H] from which, the cell's and with
// mixed memory c.
using ResetsArrays = std::optional<Arrays>;

// Adds those of the cell to its inputs.
inline void add_resets(const char* op, const ResetsArrays& resets, bool mixed, Arrays& inputs) {
  if (!resets) return;
  const size_t wanted = mixed ? 3 : 2;
  if (resets->size() != wanted)
    throw std::invalid_argument(std::string("[") + op + "] resets must be " +
                                std::to_string(wanted) + " arrays, got " +
                                std::to_string(resets->size()) + ".");
  inputs.insert(inputs.end(), {(*resets)[0], (*resets)[1]});
}

// h and c after every step, [B, T, H] each, in the dtype of x, of a cell's inputs.
template <typename Cell>
Arrays mixed_states(Cell cell, const Arrays& inputs, const MemoryArrays& memory,
                    const ResetsArrays& resets, bool save, mx::Stream s) {
  if (memory.size() != 4 && memory.size() != 5)
    throw std::invalid_argument(std::string("[") + Cell::CALL +
                                "] memory must be 4 or 5 arrays, got " +
                                std::to_string(memory.size()) + ".");
  Arrays all{memory[0]};
  if (resets) all.push_back((*resets)[2]);
  all.insert(all.end(), inputs.begin(), inputs.end());
  all.insert(all.end(), memory.begin() + 1, memory.end());
  const bool own_x = memory.size() == 5;
  return sequence_states(Mixed<Cell>{std::move(cell), own_x}, all, save, inputs[0].dtype(), s);
}

}  // namespace mlx_ncps
