// Where a cell's parameters and options lie: in the dicts and lists of its modules and in their
// attributes. Remembers what lay there, so that one walk tells whether anything was replaced,
// added, removed or, an MLX array, changed in place. It runs before every step.
#pragma once

#include <nanobind/nanobind.h>

#include <optional>
#include <unordered_set>
#include <utility>
#include <vector>

#include "mlx/mlx.h"

namespace mlx_ncps {

namespace nb = nanobind;
namespace mx = mlx::core;

// The array behind a Python object, or null, also for `mx.array.__new__(mx.array)`, which has none.
inline const mx::array* array_of(nb::handle object) {
  const bool is_array = nb::isinstance<mx::array>(object) && nb::inst_ready(object);
  return is_array ? nb::inst_ptr<mx::array>(object) : nullptr;
}

class Places {
 public:
  // The roots, a cell and what stands in front of it or None, are not held: they hold this, in the
  // end.
  Places(nb::handle cell, nb::handle memory) {
    Walk walk;
    walk.visited.insert(cell.ptr());
    add_module(walk, cell, 0);
    memory_ = !memory.is_none();
    if (memory_ && walk.visited.insert(memory.ptr()).second) add_module(walk, memory, 1);
    for (; walk.next < places_.size(); ++walk.next) add_inside(walk);
    complete_ = walk.entries <= MOST_ENTRIES;
    if (!complete_) places_.clear();
  }

  // Whether all places were seen. Modules may hold anything, a whole model or data: a walk over
  // that would cost more before every step than a graph.
  bool complete() const { return complete_; }

  bool unchanged(nb::handle cell, nb::handle memory) const {
    if (!complete_ || memory.is_none() == memory_) return false;
    for (const auto& place : places_)
      if (!place.unchanged(place.root == 0 ? cell : memory)) return false;
    return true;
  }

  // For the garbage collector: what lies here may hold the cell, and so this.
  int traverse(visitproc visit, void* arg) const {
    for (const auto& place : places_) {
      Py_VISIT(place.object.ptr());
      for (const auto& entry : place.entries) {
        Py_VISIT(entry.key.ptr());
        Py_VISIT(entry.value.ptr());
      }
    }
    return 0;
  }

 private:
  enum Kind { ITEMS, ATTRIBUTES, LIST };  // of a dict, an object's __dict__, a list or tuple

  struct Entry {
    nb::object key, value;          // no key in a list
    const mx::array* array;         // `value` itself, or null
    std::optional<mx::array> then;  // what it was; held, so that its id is not used again

    bool is(PyObject* key_now, PyObject* value_now) const {
      return key_now == key.ptr() && value_now == value.ptr() &&
             (!array || (array->id() == then->id() && !array->is_tracer()));
    }
  };

  struct Place {
    Kind kind;
    int root;           // -1: `object`
    nb::object object;  // null for a root
    PyTypeObject* type;
    std::vector<Entry> entries;

    bool unchanged(nb::handle root_now) const {
      const nb::handle now = root < 0 ? nb::handle(object) : root_now;
      if (Py_TYPE(now.ptr()) != type) return false;
      if (kind == LIST) return same_list(now.ptr());
      if (kind == ITEMS) return same_dict(now.ptr());
      const auto dict = attributes_of(now);
      return dict.is_valid() && same_dict(dict.ptr());
    }
    bool same_dict(PyObject* dict) const {
      if (std::size_t(PyDict_Size(dict)) != entries.size()) return false;
      PyObject *key, *value;
      Py_ssize_t at = 0;
      for (const auto& entry : entries)
        if (!PyDict_Next(dict, &at, &key, &value) || !entry.is(key, value)) return false;
      return true;
    }
    bool same_list(PyObject* list) const {
      if (std::size_t(PySequence_Size(list)) != entries.size()) return false;
      for (std::size_t i = 0; i < entries.size(); ++i)
        if (!entries[i].is(nullptr, item(list, Py_ssize_t(i)))) return false;
      return true;
    }
  };

  static PyObject* item(PyObject* list, Py_ssize_t i) {
    return PyList_Check(list) ? PyList_GetItem(list, i) : PyTuple_GetItem(list, i);
  }

  // The __dict__ of an object, null where it has none.
  static nb::object attributes_of(nb::handle object) {
    PyObject* dict = PyObject_GenericGetDict(object.ptr(), nullptr);
    if (!dict) PyErr_Clear();
    return nb::steal(dict);
  }

  // What a walk has seen: every object once, so that it ends where objects hold each other.
  struct Walk {
    std::unordered_set<PyObject*> visited;
    std::size_t entries = 0, next = 0;  // next: the place whose entries come next
  };

  void add_module(Walk& walk, nb::handle object, int root) {
    if (!PyDict_Check(object.ptr())) return;
    add_dict(walk, ITEMS, object, object, root);
    const auto attributes = attributes_of(object);
    if (attributes.is_valid()) add_dict(walk, ATTRIBUTES, object, attributes, root);
  }

  void add_dict(Walk& walk, Kind kind, nb::handle object, nb::handle dict, int root) {
    Place place = make(kind, object, root);
    PyObject *key, *value;
    Py_ssize_t at = 0;
    while (++walk.entries <= MOST_ENTRIES && PyDict_Next(dict.ptr(), &at, &key, &value))
      add_entry(place, key, value);
    places_.push_back(std::move(place));
  }

  void add_list(Walk& walk, nb::handle list) {
    Place place = make(LIST, list, -1);
    const Py_ssize_t size = PySequence_Size(list.ptr());
    for (Py_ssize_t i = 0; i < size && ++walk.entries <= MOST_ENTRIES; ++i)
      add_entry(place, nullptr, item(list.ptr(), i));
    places_.push_back(std::move(place));
  }

  // The modules, dicts and lists among the entries of the next place.
  void add_inside(Walk& walk) {
    if (places_[walk.next].kind == ATTRIBUTES) return;
    for (std::size_t i = 0; i < places_[walk.next].entries.size(); ++i) {
      const nb::object value = places_[walk.next].entries[i].value;  // held: the vector grows
      PyObject* inside = value.ptr();
      const bool list = PyList_Check(inside) || PyTuple_Check(inside);
      if (walk.entries > MOST_ENTRIES) return;
      if (!(list || PyDict_Check(inside)) || !walk.visited.insert(inside).second) continue;
      if (list)
        add_list(walk, value);
      else
        add_module(walk, value, -1);
    }
  }

  static Place make(Kind kind, nb::handle object, int root) {
    const auto held = root < 0 ? nb::borrow(object) : nb::object();
    return {kind, root, held, Py_TYPE(object.ptr()), {}};
  }

  static void add_entry(Place& place, PyObject* key, PyObject* value) {
    const mx::array* array = array_of(value);
    auto then = array ? std::optional(*array) : std::nullopt;
    place.entries.push_back({nb::borrow(key), nb::borrow(value), array, std::move(then)});
  }

  // A cell of a wiring's three layers has some 150.
  static constexpr std::size_t MOST_ENTRIES = 4096;

  std::vector<Place> places_;
  bool complete_;
  bool memory_;
};

}  // namespace mlx_ncps
