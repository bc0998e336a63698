// In the sanitizer build every request for Python's lock comes here (the linker's --wrap) and ends
// the process where one of MLX's threads makes it: its holder may be waiting for that thread.
#include <nanobind/nanobind.h>

#include <cstdio>
#include <cstdlib>
#include <thread>

#include "csrc/primitive.h"
#include "src/bindings.h"

namespace nb = nanobind;
using namespace nb::literals;

extern "C" PyGILState_STATE __real_PyGILState_Ensure();

extern "C" PyGILState_STATE __wrap_PyGILState_Ensure() {
  if (mlx_ncps::on_mlx_thread()) {
    std::fputs("[mlx_ncps] a thread of MLX asks for Python's lock\n", stderr);
    std::abort();
  }
  return __real_PyGILState_Ensure();
}

void bind_lock_guard(nb::module_& m) {
  m.def(
      "ask_for_lock",
      [](bool on_mlx_thread) {
        std::thread([=] {
          if (on_mlx_thread) mlx_ncps::enter_mlx_thread();
          const nb::gil_scoped_acquire lock;
        }).join();
      },
      "on_mlx_thread"_a, nb::call_guard<nb::gil_scoped_release>(),
      "Asks for Python's lock on a new thread: does the guard see it?");
}
