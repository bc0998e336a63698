// Mixed memory (MATHS 4): an LSTM in front of a cell as a wrapper of the cell's Op (see
// sequence_primitive.h); csrc/ltc.cpp and csrc/cfc.cpp make their second primitive of it.
#pragma once

#include <array>
#include <utility>

#include "csrc/cpu/kernels.h"
#include "csrc/sequence_primitive.h"

namespace mlx_ncps {

// The shapes of input_weight, bias and recurrent_weight for I inputs and H neurons.
inline std::array<mx::Shape, 3> lstm_shapes(const char* op, int I, int H) {
  const int rows = size_of(op, "4 units", 4L * H);
  return {mx::Shape{rows, I}, mx::Shape{rows}, mx::Shape{rows, H}};
}

// Inputs: c0, the cell's, input_weight, bias, recurrent_weight; states: h of the cell, c.
template <typename Cell>
struct Mixed {
  static constexpr const char *NAME = Cell::MIXED_NAME, *BACKWARD_NAME = Cell::MIXED_BACKWARD_NAME,
                              *CALL = Cell::CALL;
  static constexpr int STATES = 2;

  Cell cell;

  bool operator==(const Mixed&) const = default;
  int inputs() const { return 1 + cell.inputs() + 3; }
  template <typename F>
  void each(const Arrays& in, const F& f) const {
    const auto of = of_cell(in);
    cell.each(of, f);
    const auto shapes = lstm_shapes(CALL, of[0].shape(2), of[1].shape(1));
    f(in[0], "c0", of[1].shape(), "[B, H]");
    const auto* lstm = &in[1 + cell.inputs()];
    f(lstm[0], "input_weight", shapes[0], "[4H, I]");
    f(lstm[1], "bias", shapes[1], "[4H]");
    f(lstm[2], "recurrent_weight", shapes[2], "[4H, H]");
  }
  Mixed of_mapped(int rows) const { return {cell.of_mapped(rows)}; }
  int batched() const { return 1 + cell.batched(); }
  mx::Shape states_shape(const Arrays& in) const { return cell.states_shape(of_cell(in)); }
  std::vector<mx::Shape> saved_shapes(const Arrays& in) const {
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
  auto forward_problem(const Arrays& in, Arrays out) const {
    const bool save = out.size() > 2;
    auto p = cell.forward_problem(of_cell(in), save ? Arrays{out[0], out[2]} : Arrays{out[0]});
    set_lstm(p.lstm, in, out[1], save ? out[3].data<float>() : nullptr);
    return p;
  }

  // in: the inputs, h, c, the cell's saved, the gates, dh, dc.
  auto backward_problem(const Arrays& in, Arrays out) const {
    const auto kept = in.begin() + inputs();
    auto of = of_cell(in);
    of.insert(of.end(), {kept[0], kept[2], kept[4]});
    auto p = cell.backward_problem(of, of_cell(out));
    mx::array gates = kept[3];
    set_lstm(p.lstm, in, kept[1], gates.data<float>());
    float** const gradients[] = {&p.lstm.dc0, &p.lstm.dinput_weight, &p.lstm.dbias,
                                 &p.lstm.drecurrent_weight};
    const int own[] = {0, 1 + cell.inputs(), 2 + cell.inputs(), 3 + cell.inputs()};
    for (int i = 0; i < 4; ++i) *gradients[i] = out[own[i]].template data<float>();
    p.lstm.dc = kept[5].template data<float>();
    return p;
  }

  template <typename Problem>
  void forward(const Problem& p) const {
    cell.forward(p);
  }
  template <typename Problem>
  void backward(const Problem& p) const {
    cell.backward(p);
  }

 private:
  Arrays of_cell(const Arrays& in) const {
    return Arrays(in.begin() + 1, in.begin() + 1 + cell.inputs());
  }
  void set_lstm(LstmProblem& l, const Arrays& in, mx::array c, float* gates) const {
    const int first = 1 + cell.inputs();
    l.on = true;
    l.c0 = in[0].data<float>(), l.input_weight = in[first].data<float>();
    l.bias = in[first + 1].data<float>(), l.recurrent_weight = in[first + 2].data<float>();
    l.c = c.data<float>(), l.gates = gates;
  }
};

// c0 [B, H], input_weight [4H, I], bias [4H], recurrent_weight [4H, H]: what a call with mixed
// memory has besides the cell's arguments.
using MemoryArrays = Arrays;

// h and c after every step, [B, T, H] each, in the dtype of x, of a cell's inputs.
template <typename Cell>
Arrays mixed_states(Cell cell, const Arrays& inputs, const MemoryArrays& memory, bool save,
                    mx::Stream s) {
  if (memory.size() != 4)
    throw std::invalid_argument(std::string("[") + Cell::CALL + "] memory must be 4 arrays, got " +
                                std::to_string(memory.size()) + ".");
  Arrays all{memory[0]};
  all.insert(all.end(), inputs.begin(), inputs.end());
  all.insert(all.end(), memory.begin() + 1, memory.end());
  return sequence_states(Mixed<Cell>{std::move(cell)}, all, save, inputs[0].dtype(), s);
}

}  // namespace mlx_ncps
