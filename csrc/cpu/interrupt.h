// Ends the kernels early where Ctrl-C is pressed during a long call. The kernels ask between steps;
// src/interrupt.cpp answers for Python, whose main thread waits in MLX meanwhile.
#pragma once

#include <exception>

namespace mlx_ncps {

// Thrown by a kernel that gave up; its outputs are unfinished.
struct Interrupted : std::exception {
  const char* what() const noexcept override { return "[mlx_ncps] interrupted by Ctrl-C."; }
};

// Marks this thread, while it lives, as one that works for Python's main thread or not: only work
// for the main thread is given up. The kernels' workers inherit the mark.
class WorkFor {
 public:
  explicit WorkFor(bool main);
  ~WorkFor();
  WorkFor(const WorkFor&) = delete;
  WorkFor& operator=(const WorkFor&) = delete;

 private:
  const bool before_;
};
bool works_for_main();

// From now on, or no longer, work for the main thread is given up.
void give_up(bool on);
bool gives_up();

// What a thread calls before it starts work; true where the work is for Python's main thread. May
// throw: Ctrl-C was pressed. Nothing without Python.
bool before_work();
void set_before_work(bool (*f)());

}  // namespace mlx_ncps
