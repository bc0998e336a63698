// Mixed memory (MATHS 4): an LSTM in front of a cell as a wrapper of the cell's Op (see
// sequence_primitive.h); csrc/ltc.cpp and csrc/cfc.cpp make their second primitive of it.
#pragma once

#include <utility>

#include "csrc/cpu/kernels.h"
#include "csrc/sequence_primitive.h"

namespace mlx_ncps {

// Inputs: c0, the cell's, input_weight, bias, recurrent_weight; states: h of the cell, c.
template <typename Cell>
struct Mixed {
  static constexpr const char *NAME = Cell::MIXED_NAME, *BACKWARD_NAME = Cell::MIXED_BACKWARD_NAME,
                              *CALL = Cell::CALL;
  static constexpr int STATES = 2;

  Cell cell;

  bool operator==(const Mixed&) const = default;
  int inputs() const { return 1 + cell.inputs() + 3; }
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

// h and c after every step, [B, T, H] each, in the dtype of x, of a cell's prepared inputs.
template <typename Cell>
Arrays mixed_states(Cell cell, const Arrays& inputs, const MemoryArrays& memory, bool save,
                    mx::Dtype dtype, mx::Stream s) {
  const char* names[] = {"c0", "input_weight", "bias", "recurrent_weight"};
  if (memory.size() != 4)
    throw std::invalid_argument(std::string("[") + Cell::CALL + "] memory must be 4 arrays, got " +
                                std::to_string(memory.size()) + ".");
  const auto states = cell.states_shape(inputs);
  const int B = states[0], H = states[2], I = inputs[0].shape(2);
  const mx::Shape wanted[] = {{B, H}, {4 * H, I}, {4 * H}, {4 * H, H}};
  const char* symbols[] = {"[B, H]", "[4H, I]", "[4H]", "[4H, H]"};
  Arrays all;
  for (int i = 0; i < 4; ++i) {
    check_dtype(Cell::CALL, names[i], memory[i]);
    check_shape(Cell::CALL, names[i], memory[i], wanted[i], symbols[i]);
    const bool first_traced = i == 0 && (any_traced(inputs) || any_traced(memory));
    all.push_back(ready(exportable_by_hint(memory[i], first_traced, s), s));
    if (i == 0) all.insert(all.end(), inputs.begin(), inputs.end());
  }
  return sequence_states(Mixed<Cell>{std::move(cell)}, all, save, dtype, s);
}

}  // namespace mlx_ncps
