// Ctrl-C during a long call. Python's own handler only notes the signal, and the main thread looks
// at the note when it is back from MLX. So while fused work is done for the main thread, a handler
// in front of Python's wakes a thread; where the main thread is not back after a while, and Ctrl-C
// means KeyboardInterrupt, the kernels give up (csrc/cpu/interrupt.h), MLX returns, and Python
// raises. A handler that the user wrote may not raise: it waits for the end of the call, as before.
#include <fcntl.h>
#include <nanobind/nanobind.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <stdexcept>
#ifdef __linux__
#include <sys/syscall.h>
#endif

#include "csrc/cpu/interrupt.h"
#include "src/bindings.h"

namespace nb = nanobind;

namespace {

// A step of training ends within it, so that the parameters are whole when Python raises.
constexpr useconds_t GRACE = 300000;  // us

std::atomic<bool> pressed{false};           // and Python's main thread may not know it yet
std::atomic<bool> ended{false};             // Python is about to end
std::atomic<int> wake{-1};                  // where the handler writes
int watched = -1;                           // where the watching thread reads
void (*pythons_handler)(int) = nullptr;     // null: there was none, and nothing here acts
PyObject *getsignal, *default_int_handler;  // of Python's module _signal

bool is_main_thread() {
#ifdef __linux__
  thread_local const bool is = getpid() == pid_t(syscall(SYS_gettid));
#else
  thread_local const bool is = pthread_main_np() != 0;
#endif
  return is;
}

void clear() {
  pressed.store(false);
  mlx_ncps::give_up(false);
}

// Whether Ctrl-C means KeyboardInterrupt now; needs Python's lock.
bool raises() {
  return nb::steal(PyObject_CallFunction(getsignal, "i", SIGINT)).ptr() == default_int_handler;
}

void on_signal(int number) {
  const int before = errno, to = wake.load();
  if (to >= 0) {
    pressed.store(true);
    [[maybe_unused]] const auto written = write(to, "", 1);
  }
  errno = before;
  pythons_handler(number);
}

// Runs in the main thread as soon as it is back in Python.
int main_thread_is_back(void*) {
  clear();
  return 0;
}

void* watch(void*) {
  for (char byte;;) {
    if (read(watched, &byte, 1) != 1) {
      if (errno == EINTR) continue;
      return nullptr;
    }
    if (ended || Py_AddPendingCall(main_thread_is_back, nullptr) != 0) {
      clear();
      continue;
    }
    usleep(GRACE);
    if (!pressed || ended) continue;
    const nb::gil_scoped_acquire lock;
    if (pressed && raises()) mlx_ncps::give_up(true);
  }
}

// The thread that the handler wakes; takes no signals.
bool start_watching() {
  int ends[2];
  if (pipe(ends) != 0) return false;
  for (int end : ends) fcntl(end, F_SETFD, FD_CLOEXEC);
  watched = ends[0];
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  const bool started = pthread_create(&thread, nullptr, watch, nullptr) == 0;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (started) pthread_detach(thread);
  wake.store(ends[1]);
  return started;
}

// Puts the handler in front of Python's, and leaves any other alone.
void install() {
  struct sigaction now;
  if (sigaction(SIGINT, nullptr, &now) != 0 || (now.sa_flags & SA_SIGINFO) ||
      now.sa_handler != pythons_handler)
    return;
  if (wake.load() < 0 && !start_watching()) return;
  now.sa_handler = on_signal;
  sigaction(SIGINT, &now, nullptr);
}

// For work that is about to start: whether it is the main thread's.
bool prepare() {
  if (!pythons_handler || !is_main_thread() || ended) return false;
  if (pressed || mlx_ncps::gives_up()) {  // in this evaluation, or before it and already raised
    const nb::gil_scoped_acquire lock;
    if (raises()) {
      const bool raised = PyErr_CheckSignals() != 0;
      clear();
      mlx_ncps::give_up(raised);  // MLX waits for what is queued before it lets the error through
      if (raised) throw nb::python_error();
    }
  }
  install();
  return true;
}

void in_forked_child() {  // which has no watching thread
  if (wake.load() >= 0) close(wake.load()), close(watched);
  wake.store(-1);
  clear();
}

}  // namespace

void raise_interrupt() {
  const bool raised = PyErr_CheckSignals() != 0;
  clear();
  if (raised) throw nb::python_error();
  throw std::runtime_error("[mlx_ncps] interrupted by Ctrl-C.");
}

void bind_interrupt() {
  struct sigaction now;
  if (sigaction(SIGINT, nullptr, &now) != 0 || (now.sa_flags & SA_SIGINFO) ||
      now.sa_handler == SIG_DFL || now.sa_handler == SIG_IGN)
    return;
  // Not `signal`, whose functions are Python code: running any would handle the signal.
  const auto signal = nb::module_::import_("_signal");
  getsignal = nb::object(signal.attr("getsignal")).release().ptr();
  default_int_handler = nb::object(signal.attr("default_int_handler")).release().ptr();
  pythons_handler = now.sa_handler;
  nb::module_::import_("atexit").attr("register")(nb::cpp_function([] { ended.store(true); }));
  pthread_atfork(nullptr, nullptr, in_forked_child);
  mlx_ncps::set_before_work(prepare);
}
