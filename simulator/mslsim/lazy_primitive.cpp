// An MLX primitive whose evaluation asks Python: lazy.py makes a simulated kernel of it that
// behaves as MLX's own CustomKernel does, lazily and under every transformation of MLX. Tests only.
//
// The evaluation runs on the thread that evaluates, after everything before it on its stream: no
// thread of MLX ever waits for Python's lock, and no object of Python's is owned here.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "mlx/allocator.h"
#include "mlx/mlx.h"
#include "mlx/primitives.h"

namespace nb = nanobind;
namespace mx = mlx::core;
using namespace nb::literals;
using Arrays = std::vector<mx::array>;

namespace {

PyObject* evaluate = nullptr;  // (number, inputs' bytes, outputs' writable bytes); kept for good
std::mutex gone_lock;
std::vector<long> gone;  // numbers of calls that no graph holds any more

void wait_for(mx::Stream s) {
  if (!PyGILState_Check()) return mx::synchronize(s);
  nb::gil_scoped_release unlocked;
  mx::synchronize(s);
}

class Kernel : public mx::Primitive {
 public:
  Kernel(mx::Stream s, long number) : Primitive(s), number_(number) {}
  ~Kernel() override {
    const std::lock_guard<std::mutex> locked(gone_lock);
    gone.push_back(number_);
  }

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override {
    wait_for(stream());
    for (auto& out : outputs) out.set_data(mx::allocator::malloc(out.nbytes()));
    nb::gil_scoped_acquire locked;
    nb::list given, wanted;
    for (const auto& a : inputs)
      given.append(nb::steal(PyMemoryView_FromMemory(const_cast<char*>(a.data<char>()),
                                                     Py_ssize_t(a.nbytes()), PyBUF_READ)));
    for (auto& a : outputs)
      wanted.append(
          nb::steal(PyMemoryView_FromMemory(a.data<char>(), Py_ssize_t(a.nbytes()), PyBUF_WRITE)));
    std::string error;
    try {
      const nb::handle function = evaluate;
      function(number_, given, wanted);
    } catch (nb::python_error& raised) {
      error = raised.what();  // its type is not known to the module that will translate it
    }
    if (!error.empty()) throw std::runtime_error(error);
  }
  void eval_gpu(const Arrays&, Arrays&) override {
    throw std::runtime_error("[mslsim] a simulated kernel runs on a CPU stream.");
  }
  const char* name() const override { return "CustomKernel"; }

 private:
  long number_;
};

}  // namespace

NB_MODULE(_mslsim_lazy, m) {
  m.def("set_evaluate", [](nb::object function) { evaluate = function.release().ptr(); });
  m.def(
      "call",
      [](long number, const Arrays& inputs, const std::vector<std::vector<int>>& shapes,
         const std::vector<mx::Dtype>& dtypes, mx::StreamOrDevice stream) {
        const auto s = mx::to_stream(stream);
        Arrays contiguous;
        for (const auto& a : inputs) contiguous.push_back(mx::contiguous(a, false, s));
        std::vector<mx::Shape> sizes;
        for (const auto& shape : shapes) sizes.emplace_back(shape.begin(), shape.end());
        return mx::array::make_arrays(sizes, dtypes, std::make_shared<Kernel>(s, number),
                                      contiguous);
      },
      "number"_a, "inputs"_a, "shapes"_a, "dtypes"_a, "stream"_a = nb::none());
  m.def("take_gone", [] {
    const std::lock_guard<std::mutex> locked(gone_lock);
    return std::exchange(gone, {});
  });
}
