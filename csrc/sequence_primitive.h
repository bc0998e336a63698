// A recurrent network over a whole sequence as a pair of MLX primitives: the forward, and the
// backward that its vjp builds. LTC and CfC differ in their Op only.
//
// An Op is a small value (compared by ==) with
//   NAME, BACKWARD_NAME, CALL   class names, and the function's name in errors
//   STATES, states_shape(inputs)   how many states come out, all of one shape; or states() and
//                               states_shapes(inputs)
//   Problem, sized(inputs), fields(problem, f)
//                               the kernels' argument, with its sizes; the table of its arrays
//                               (csrc/fields.h)
//   int inputs() const          arrays that the forward reads
//   int batched() const         how many of the first of them have the batch as axis 0
//   saved_shapes(inputs), saved_batch_axes()
//                               of what the forward keeps for the backward
//   of_mapped(rows)             the op for a mapped batch, folded from elements of so many rows
//   forward_problem(inputs, outputs), backward_problem(inputs, outputs)
//                               outputs of the forward: states, and what is kept where it is;
//                               inputs of the backward: those of the forward, states, kept, the
//                               states' cotangents; it gives a gradient for each input of the
//                               forward
//   forward(problem), backward(problem)   run the kernels
#pragma once

#include <algorithm>
#include <bit>
#include <memory>
#include <utility>

#include "csrc/cpu/interrupt.h"
#include "csrc/fields.h"
#include "csrc/mapped.h"
#include "csrc/primitive.h"
#include "mlx/backend/cpu/encoder.h"

namespace mlx_ncps {

// Throws std::invalid_argument for a shape that the kernels would not read rightly. A primitive
// asks when it is built, when mx.compile(shapeless=True) puts arrays of other shapes in, and at
// last when it is evaluated.
template <typename Op>
void check_inputs(const Op& op, const Arrays& in) {
  if (int(in.size()) < op.inputs())
    throw std::invalid_argument(std::string("[") + Op::CALL + "] wants " +
                                std::to_string(op.inputs()) + " arrays, got " +
                                std::to_string(in.size()) + ".");
  each_input(op, in,
             [](const mx::array& a, const char* name, const mx::Shape& wanted,
                const char* symbols) { check_shape(Op::CALL, name, a, wanted, symbols); });
}

// And for a number of arrays that is not the op's.
template <typename Op>
void check_count(const Op& op, const Arrays& in) {
  if (int(in.size()) != op.inputs())
    throw std::invalid_argument(std::string("[") + Op::CALL + "] wants " +
                                std::to_string(op.inputs()) + " arrays, got " +
                                std::to_string(in.size()) + ".");
}

// The states [B, T, H] of x [B, T, I] and state [B, H], the first two inputs of a cell.
inline mx::Shape states_shape(const Arrays& in) {
  return {in[0].shape(0), in[0].shape(1), in[1].shape(1)};
}

// The shapes of all states of an op, and their number.
template <typename Op>
Shapes shapes_of_states(const Op& op, const Arrays& in) {
  if constexpr (requires { op.states_shapes(in); })
    return op.states_shapes(in);
  else
    return Shapes(Op::STATES, op.states_shape(in));
}
template <typename Op>
int count_states(const Op& op) {
  if constexpr (requires { op.states(); })
    return op.states();
  else
    return Op::STATES;
}

// A NaN that no kernel computes: states of a forward that gave up. Its backward gives up too, so
// that what is kept between them, gigabytes of a long call, may stay as it is.
inline float unfinished() { return std::bit_cast<float>(0x7fc4cccdu); }
inline bool is_unfinished(const mx::array& states) {
  return states.size() > 0 && std::bit_cast<unsigned>(*states.data<float>()) == 0x7fc4cccdu;
}

// Where Ctrl-C ends the run, the first `visible` outputs become NaN and MLX goes on: an exception
// would wait in the stream for its next user, and the main thread raises KeyboardInterrupt as soon
// as MLX returns.
template <typename Run>
void dispatch(mx::Stream stream, const Arrays& inputs, Arrays& outputs, int visible, Run run) {
  const bool main = before_work();
  std::vector<std::pair<float*, size_t>> seen;
  for (int i = 0; i < visible; ++i) seen.emplace_back(outputs[i].data<float>(), outputs[i].size());
  auto& encoder = mx::cpu::get_command_encoder(stream);
  for (const auto& a : inputs) encoder.set_input_array(a);
  for (auto& a : outputs) encoder.set_output_array(a);
  encoder.dispatch([main, seen = std::move(seen), run = std::move(run)] {
    enter_mlx_thread();
    const WorkFor caller(main);
    try {
      run();
    } catch (const Interrupted&) {
      for (auto [data, size] : seen) std::fill_n(data, size, unfinished());
    }
  });
}

// A kernel asks for its scratch memory in the task, where an exception becomes a RuntimeError.
template <typename Op, typename Run>
void within_memory(Run run) {
  try {
    run();
  } catch (const std::bad_alloc&) {
    throw std::runtime_error(std::string("[") + Op::CALL +
                             "] no memory for what the kernel works in: use fewer threads "
                             "(mlx_ncps.set_num_threads) or fewer unfolds.");
  }
}

// The inputs of a call, checked and float32.
template <typename Op>
Arrays prepared(const Op& op, const Arrays& in, mx::Stream s) {
  check_inputs(op, in);
  each_input(op, in, [](const mx::array& a, const char* name, const mx::Shape&, const char*) {
    check_dtype(Op::CALL, name, a);
  });
  Arrays out;
  for (const auto& a : in) out.push_back(as_float(a, s));
  return out;
}

template <typename Primitive>
Arrays outputs_of(std::shared_ptr<Primitive> primitive, const Arrays& inputs) {
  const auto shapes = primitive->output_shapes(inputs);
  return mx::array::make_arrays(shapes, std::vector<mx::Dtype>(shapes.size(), mx::float32),
                                primitive, inputs);
}

template <typename Op>
class SequenceBackward : public mx::Primitive {
 public:
  SequenceBackward(mx::Stream s, Op op) : Primitive(s), op_(std::move(op)) {}

  void eval_cpu(const Arrays& given, Arrays& outputs) override {
    check(given);
    const auto inputs = row_contiguous(Op::CALL, given, stream());
    allocate(Op::CALL, outputs);
    dispatch(stream(), inputs, outputs, op_.inputs(),
             [op = op_, p = op_.backward_problem(inputs, outputs),
              states = mx::array::unsafe_weak_copy(inputs[op_.inputs()])] {
               if (is_unfinished(states)) throw Interrupted();
               within_memory<Op>([&] { op.backward(p); });
             });
  }
  void eval_gpu(const Arrays&, Arrays&) override { no_derivative(Op::CALL, "GPU version"); }
  Arrays vjp(const Arrays&, const Arrays&, const std::vector<int>&, const Arrays&) override {
    no_derivative(Op::CALL, "second derivative");
  }
  Arrays jvp(const Arrays&, const Arrays&, const std::vector<int>&) override {
    no_derivative(Op::CALL, "second derivative");
  }

  // Parameter gradients are sums over the batch, so a mapped axis can't join it.
  Mapped vmap(const Arrays& inputs, const std::vector<int>& axes) override {
    return map_in_place(Op::CALL, std::make_shared<SequenceBackward>(stream(), op_), inputs, axes);
  }

  const char* name() const override { return Op::BACKWARD_NAME; }
  bool is_equivalent(const mx::Primitive& other) const override {
    return op_ == static_cast<const SequenceBackward&>(other).op_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    check(in);
    std::vector<mx::Shape> shapes;
    for (int i = 0; i < op_.inputs(); ++i) shapes.push_back(in[i].shape());
    return shapes;
  }

 private:
  // The inputs of the forward, states, what was kept, and the states' cotangents.
  void check(const Arrays& in) const {
    check_inputs(op_, in);
    const auto states = shapes_of_states(op_, in), saved = op_.saved_shapes(in);
    auto wanted = states;
    wanted.insert(wanted.end(), saved.begin(), saved.end());
    wanted.insert(wanted.end(), states.begin(), states.end());
    if (in.size() != op_.inputs() + wanted.size())
      throw std::invalid_argument(std::string("[") + Op::CALL + "] the gradient wants " +
                                  std::to_string(op_.inputs() + wanted.size()) + " arrays, got " +
                                  std::to_string(in.size()) + ".");
    for (size_t i = 0; i < wanted.size(); ++i)
      check_shape(Op::CALL, "a state, what was saved, or a cotangent", in[op_.inputs() + i],
                  wanted[i], "that of its place");
  }

  Op op_;
};

template <typename Op>
class Sequence : public mx::Primitive {
 public:
  Sequence(mx::Stream s, Op op, bool save) : Primitive(s), op_(std::move(op)), save_(save) {}

  void eval_cpu(const Arrays& given, Arrays& outputs) override {
    check_inputs(op_, given);
    const auto inputs = row_contiguous(Op::CALL, given, stream());
    allocate(Op::CALL, outputs);
    dispatch(stream(), inputs, outputs, count_states(op_),
             [op = op_, p = op_.forward_problem(inputs, outputs)] {
               within_memory<Op>([&] { op.forward(p); });
             });
  }
  void eval_gpu(const Arrays&, Arrays&) override { no_derivative(Op::CALL, "GPU version"); }

  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override {
    if (in_shapeless_trace())
      throw std::invalid_argument(
          std::string("[") + Op::CALL +
          "] gradients want mx.compile without shapeless=True, where MLX's own sums over a batch "
          "of one row and step crash.");
    auto in = primals;
    const auto kept = save_ ? outputs : run(primals, true);
    in.insert(in.end(), kept.begin(), kept.end());
    for (int i = 0; i < count_states(op_); ++i) in.push_back(as_float(cotangents[i], stream()));
    const auto all = outputs_of(std::make_shared<SequenceBackward<Op>>(stream(), op_), in);
    Arrays wanted;
    for (int i : argnums) wanted.push_back(all[i]);
    return wanted;
  }
  Arrays jvp(const Arrays&, const Arrays&, const std::vector<int>&) override {
    no_derivative(Op::CALL, "forward-mode derivative (jvp)");
  }

  Mapped vmap(const Arrays& inputs, const std::vector<int>& axes) override {
    if (!only_first_mapped(axes, op_.batched()))
      return map_in_place(Op::CALL, std::make_shared<Sequence>(stream(), op_, save_), inputs, axes);
    const auto op = op_.of_mapped(inputs[0].shape(axes[0] == 0 ? 1 : 0));
    const auto run = [&](const Arrays& in) {
      return outputs_of(std::make_shared<Sequence>(stream(), op, save_), in);
    };
    std::vector<int> batch_axes(count_states(op_), 0);
    for (int axis : op_.saved_batch_axes()) batch_axes.push_back(axis);
    return map_by_batch(Op::CALL, run, inputs, axes, op_.batched(), batch_axes, stream());
  }

  const char* name() const override { return Op::NAME; }
  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& o = static_cast<const Sequence&>(other);
    return op_ == o.op_ && save_ == o.save_;
  }
  std::vector<mx::Shape> output_shapes(const Arrays& in) override {
    check_inputs(op_, in);
    auto shapes = shapes_of_states(op_, in);
    if (save_)
      for (const auto& saved : op_.saved_shapes(in)) shapes.push_back(saved);
    for (const auto& shape : shapes) check_bytes(Op::CALL, shape);
    return shapes;
  }

 private:
  Arrays run(const Arrays& inputs, bool save) {
    return outputs_of(std::make_shared<Sequence>(stream(), op_, save), inputs);
  }

  Op op_;
  bool save_;
};

// The states of a sequence, in the dtype of x.
template <typename Op>
Arrays sequence_states(Op op, Arrays inputs, bool save, mx::Dtype dtype, mx::Stream s) {
  inputs[0] = exportable_by_hint(inputs[0], any_traced(inputs), s);
  const auto all = prepared(op, inputs, s);
  auto outputs = outputs_of(std::make_shared<Sequence<Op>>(s, std::move(op), save), all);
  Arrays states;
  for (int i = 0; i < Op::STATES; ++i) states.push_back(mx::astype(outputs[i], dtype, s));
  return states;
}

}  // namespace mlx_ncps
