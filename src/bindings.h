// What the files of the module mlx_ncps._ext share: objects that MLX may free, and the parts that
// have files of their own.
#pragma once

#include <nanobind/nanobind.h>

#include <memory>

// The Python class of an object that primitives hold: Python owns the handle, C++ the object.
template <typename T>
struct Shared {
  std::shared_ptr<const T> object;
};

namespace nanobind::detail {

// In place of nanobind/stl/shared_ptr.h, with which this can't be compiled: its pointers own the
// Python object and take the GIL to free it. MLX's threads free primitives and tasks while another
// thread waits for them with the GIL in hand, or after Python's end.
template <typename T>
struct type_caster<std::shared_ptr<T>> {
  using Caster = make_caster<Shared<std::remove_const_t<T>>>;
  NB_TYPE_CASTER(std::shared_ptr<T>, Caster::Name)

  bool from_python(handle source, uint8_t flags, cleanup_list* cleanup) noexcept {
    if (source.is_none()) return value.reset(), true;
    Caster caster;
    if (!caster.from_python(source, flags, cleanup)) return false;
    value = static_cast<Shared<std::remove_const_t<T>>&>(caster).object;
    return true;
  }
};

}  // namespace nanobind::detail

#ifdef MLX_NCPS_LOCK_GUARD
void bind_lock_guard(nanobind::module_& m);
#endif
void bind_interrupt();
void bind_program(nanobind::module_& m);
void bind_step_cell(nanobind::module_& m);
void bind_values_and_limits(nanobind::module_& m);

// For who has caught Interrupted, with Python's lock: throws KeyboardInterrupt.
[[noreturn]] void raise_interrupt();
