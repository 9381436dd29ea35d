// Whether objects and dictionaries still hold what they held: names that were resolved once stay resolved for as long.
// A step is (object, name, value), an attribute in the object's own dictionary, or (dictionary, keys, values).
#include "table.hpp"

namespace py = pybind11;

namespace bittersweet::python {
namespace {

// The items of a dictionary in their order, by identity; an expected value of ... stands for any.
bool contains_only(PyObject* dictionary, PyObject* keys, PyObject* values) {
  if (!PyDict_Check(dictionary) || PyDict_GET_SIZE(dictionary) != PyTuple_GET_SIZE(keys)) return false;
  if (PyTuple_GET_SIZE(values) != PyTuple_GET_SIZE(keys)) return false;
  PyObject *key = nullptr, *value = nullptr;
  Py_ssize_t position = 0;
  for (Py_ssize_t i = 0; PyDict_Next(dictionary, &position, &key, &value); ++i) {
    PyObject* const expected = PyTuple_GET_ITEM(values, i);
    if (key != PyTuple_GET_ITEM(keys, i) || (expected != Py_Ellipsis && expected != value)) return false;
  }
  return true;
}

bool step_holds(PyObject* step) {
  if (!PyTuple_CheckExact(step) || PyTuple_GET_SIZE(step) != 3) throw ArgumentError("trail: steps are tuples of three");
  PyObject *const owner = PyTuple_GET_ITEM(step, 0), *const key = PyTuple_GET_ITEM(step, 1);
  PyObject* const expected = PyTuple_GET_ITEM(step, 2);
  if (PyTuple_CheckExact(key) && PyTuple_CheckExact(expected)) return contains_only(owner, key, expected);
  if (!PyUnicode_CheckExact(key)) throw ArgumentError("trail: the second of a step is a string or a tuple");
  const auto own = py::reinterpret_steal<py::object>(PyObject_GenericGetDict(owner, nullptr));
  const bool same = own && PyDict_Check(own.ptr()) && PyDict_GetItemWithError(own.ptr(), key) == expected;
  PyErr_Clear();
  return same;
}

// The list and its tuples belong to Python, and comparing keys may run Python code: both are looked at anew each time.
bool trail_holds(const py::list& trail) {
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(trail.ptr()); ++i) {
    const auto step = py::reinterpret_borrow<py::object>(PyList_GET_ITEM(trail.ptr(), i));
    if (!step_holds(step.ptr())) return false;
  }
  return true;
}

}  // namespace

void bind_trails(py::module_& module) { module.def("trail_holds", &trail_holds, py::arg("trail")); }

}  // namespace bittersweet::python
