// What many tensors are, and where they are now, read in one walk; tensors of any unusual kind, and those that are not
// what they were, are left to Python.
#include <algorithm>
#include <limits>
#include <optional>
#include <span>
#include <tuple>

#include "dlpack.hpp"
#include "table.hpp"

namespace py = pybind11;

namespace bittersweet::python {
namespace {

// A borrowed one-dimensional buffer of 64-bit words. pybind11's own request allocates; this runs in every step.
class Words {
 public:
  Words(const py::buffer& object, const char* argument, bool writable) {
    if (PyObject_GetBuffer(object.ptr(), &view_, (writable ? PyBUF_WRITABLE : 0) | PyBUF_ND) != 0) {
      PyErr_Clear();
      refuse(argument);
    }
    if (view_.itemsize != 8 || view_.ndim != 1) {
      PyBuffer_Release(&view_);
      refuse(argument);
    }
  }
  Words(const Words&) = delete;
  Words& operator=(const Words&) = delete;
  ~Words() { PyBuffer_Release(&view_); }

  std::size_t size() const { return static_cast<std::size_t>(view_.shape[0]); }
  std::uint64_t* data() const { return static_cast<std::uint64_t*>(view_.buf); }

 private:
  [[noreturn]] static void refuse(const char* argument) {
    throw ArgumentError(std::string(argument) + ": a one-dimensional buffer of 64-bit words is needed (array('Q'))");
  }
  Py_buffer view_{};
};

// The table of functions of our major version; null if the capsule holds none that describes tensors.
const dlpack::ExchangeApi* exchange_of(const py::object& capsule) {
  if (!PyCapsule_IsValid(capsule.ptr(), dlpack::capsule_name)) return nullptr;
  const void* found = PyCapsule_GetPointer(capsule.ptr(), dlpack::capsule_name);
  const auto* header = static_cast<const dlpack::ExchangeHeader*>(found);
  while (header != nullptr && header->version.major != dlpack::major_version) header = header->previous;
  const auto* api = reinterpret_cast<const dlpack::ExchangeApi*>(header);
  return api == nullptr || api->describe == nullptr ? nullptr : api;
}

std::optional<DType> dtype_of(const dlpack::DataType& type) {
  for (const auto& [code, bits, dtype] :
       {std::tuple(dlpack::floats, 32, DType::f32), std::tuple(dlpack::floats, 16, DType::f16),
        std::tuple(dlpack::bfloats, 16, DType::bf16)})
    if (type == dlpack::DataType{code, static_cast<std::uint8_t>(bits), 1}) return dtype;
  return {};
}

// What is remembered of a tensor; its shape and strides lie in `Addresses::axes_`.
struct Kind {
  const PyTypeObject* type = nullptr;  // null in the place of None
  dlpack::Device device{};
  dlpack::DataType dtype{};
  std::int32_t ndim = 0;
  std::size_t axes = 0;
  std::uint64_t own = 0;  // bytes from the address that are this tensor's alone; 0 of an empty one
  std::uint64_t address = 0;
};

std::uint64_t address_of(const dlpack::Tensor& tensor) {
  return static_cast<std::uint64_t>(reinterpret_cast<std::uintptr_t>(tensor.data)) + tensor.byte_offset;
}

// Bytes from the first to the last element, both included; none if a stride points backwards or they are too many.
std::optional<std::int64_t> extent_of(const dlpack::Tensor& tensor) {
  std::int64_t last = 0;
  for (std::int32_t i = 0, n = tensor.ndim; i < n; ++i) {
    const std::int64_t steps = tensor.shape[i] - 1, stride = tensor.strides[i];
    if (steps <= 0) continue;
    if (stride < 0 || stride > (std::int64_t{1} << 56) / steps) return {};
    if ((last += steps * stride) > std::int64_t{1} << 56) return {};
  }
  return (last + 1) * (tensor.dtype.bits / 8);
}

// All bytes of a dense tensor, the first element's of another: what Python's `View.memory` gives.
std::uint64_t own_bytes(const dlpack::Tensor& tensor) {
  std::int64_t numel = 1;
  for (std::int32_t i = 0; i < tensor.ndim; ++i) numel *= tensor.shape[i];
  const auto item = static_cast<std::uint64_t>(std::max(tensor.dtype.bits / 8, 1));
  if (numel == 0) return 0;
  const std::optional<std::int64_t> extent = extent_of(tensor);
  const bool dense = extent && static_cast<std::uint64_t>(*extent) == static_cast<std::uint64_t>(numel) * item;
  return dense ? static_cast<std::uint64_t>(numel) * item : item;
}

std::optional<std::int64_t> number_of(const py::object& object) {
  const std::int64_t number = object ? PyLong_AsLongLong(object.ptr()) : -1;
  if (number >= 0) return number;
  PyErr_Clear();
  return {};
}

// An item of a list that code run in between may have shortened.
py::object item(const py::list& list, std::size_t i) {
  if (i >= list.size()) throw ArgumentError("a list became shorter while it was read");
  return list[i];
}

bool has_shape(std::span<const std::int64_t> sizes, const py::object& shape) {
  if (!PyTuple_CheckExact(shape.ptr()) || PyTuple_GET_SIZE(shape.ptr()) != std::ssize(sizes)) return false;
  for (std::size_t axis = 0; axis < sizes.size(); ++axis) {
    PyObject* const number = PyTuple_GET_ITEM(shape.ptr(), static_cast<Py_ssize_t>(axis));
    if (!PyLong_CheckExact(number)) return false;  // whose __index__ could run code that leaves nothing of `sizes`
    if (PyLong_AsLongLong(number) != sizes[axis]) {
      PyErr_Clear();
      return false;
    }
  }
  return true;
}

py::tuple tuple_of(const std::vector<std::int64_t>& sizes) {
  py::tuple shape(sizes.size());
  for (std::size_t i = 0; i < sizes.size(); ++i) shape[i] = sizes[i];
  return shape;
}

py::bytes bytes_of(const std::vector<std::uint64_t>& words) {
  return {reinterpret_cast<const char*>(words.data()), words.size() * sizeof(std::uint64_t)};
}

py::object call(py::handle object, py::handle method) {
  return py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(object.ptr(), method.ptr()));
}

class Addresses {
 public:
  Addresses(py::object api, const py::tuple& types) : capsule_(std::move(api)), api_(exchange_of(capsule_)) {
    if (api_ == nullptr)
      throw ArgumentError("api: no DLPack exchange API of version " + std::to_string(dlpack::major_version) +
                          " that describes tensors");
    for (const py::handle type : types) {
      const py::object offered = py::getattr(type, "__dlpack_c_exchange_api__", py::none());
      const bool speaks = PyType_Check(type.ptr()) && offered.is(capsule_);
      if (!speaks) throw ArgumentError("types: classes whose __dlpack_c_exchange_api__ is the given one are needed");
    }
    types_ = types;
  }

  bool remember(const py::list& tensors, bool apart) {
    forget();
    apart_ = apart;
    kinds_.reserve(tensors.size());
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const py::object object = tensors[i];
      kinds_.emplace_back();
      Kind& kind = kinds_.back();
      if (object.is_none()) continue;
      dlpack::Tensor tensor{};
      if (!describe(object, tensor)) {
        forget();
        return false;
      }
      kind = {Py_TYPE(object.ptr()), tensor.device,     tensor.dtype,      tensor.ndim,
              axes_.size(),          own_bytes(tensor), address_of(tensor)};
      for (std::int32_t axis = 0; axis < tensor.ndim; ++axis) {
        axes_.push_back(tensor.shape[axis]);
        axes_.push_back(tensor.strides[axis]);
      }
    }
    return true;
  }

  bool read(const py::list& tensors, const py::buffer& out, const py::buffer& places) {
    const Words to(out, "out", true), at(places, "places", false);
    const std::size_t count = kinds_.size();
    if (at.size() != tensors.size()) throw ArgumentError("places: one place a tensor is needed");
    for (std::size_t i = 0; i < at.size(); ++i)
      if (at.data()[i] >= to.size()) throw ArgumentError("places: a place beyond the end of out");
    const std::uint64_t turn = ++turn_;
    if (tensors.size() != count) return fail(turn);
    found_.resize(count);
    for (std::size_t i = 0; i < count; ++i) {
      if (static_cast<std::size_t>(PyList_GET_SIZE(tensors.ptr())) != count) return fail(turn);
      PyObject* const object = PyList_GET_ITEM(tensors.ptr(), static_cast<Py_ssize_t>(i));
      if (object == Py_None && kinds_[i].type == nullptr) continue;
      const py::object kept = py::reinterpret_borrow<py::object>(object);
      if (!is_as_before(kept, kinds_[i], found_[i], turn)) return fail(turn);
    }
    if (apart_ && !lie_apart()) return fail(turn);
    for (std::size_t i = 0; i < count; ++i)
      if (kinds_[i].type != nullptr) to.data()[at.data()[i]] = kinds_[i].address = found_[i];
    return true;
  }

  py::tuple host_columns(const py::list& tensors, const std::optional<py::list>& like) const {
    const std::size_t count = tensors.size();
    if (like && like->size() != count) throw ArgumentError("like: one shape a tensor is needed");
    std::vector<std::uint64_t> pointers(count), dtypes(count);
    py::list shapes, odd;
    for (std::size_t i = 0; i < count; ++i) {
      const py::object object = item(tensors, i);
      py::object shape = like ? item(*like, i) : py::tuple();
      const HostView view = object.is_none() ? HostView{} : host_view(object);
      if (view.address != 0 && (!like || has_shape(view.sizes, shape))) {
        pointers[i] = view.address;
        dtypes[i] = static_cast<std::uint64_t>(view.dtype);
        if (!like) shape = tuple_of(view.sizes);
      } else if (!object.is_none()) {
        odd.append(i);
      }
      shapes.append(std::move(shape));
    }
    return py::make_tuple(bytes_of(pointers), bytes_of(dtypes), shapes, odd);
  }

  py::list of_other_shapes(const py::list& tensors, const py::list& shapes) const {
    if (shapes.size() != tensors.size()) throw ArgumentError("shapes: one a tensor is needed");
    py::list odd;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const py::object object = item(tensors, i);
      dlpack::Tensor tensor{};
      if (object.is_none()) continue;
      if (!describe(object, tensor) ||
          !has_shape(std::span(tensor.shape, static_cast<std::size_t>(tensor.ndim)), item(shapes, i)))
        odd.append(i);
    }
    return odd;
  }

  static bool knows(const py::object& api) { return exchange_of(api) != nullptr; }

 private:
  void forget() {
    ++turn_;
    kinds_.clear();
    axes_.clear();
  }

  bool fail(std::uint64_t turn) {
    if (turn == turn_) forget();
    return false;
  }

  // Whether what was found overlaps nowhere; looked at only if something has moved.
  bool lie_apart() {
    bool moved = false;
    for (std::size_t i = 0; i < kinds_.size(); ++i) moved |= kinds_[i].own != 0 && found_[i] != kinds_[i].address;
    if (!moved) return true;
    ranges_.clear();
    for (std::size_t i = 0; i < kinds_.size(); ++i)
      if (kinds_[i].own != 0) ranges_.emplace_back(found_[i], found_[i] + kinds_[i].own);
    std::sort(ranges_.begin(), ranges_.end());
    for (std::size_t i = 1; i < ranges_.size(); ++i)
      if (ranges_[i].first < ranges_[i - 1].second) return false;
    return true;
  }

  bool describe(const py::object& object, dlpack::Tensor& tensor) const {
    const auto* const type = reinterpret_cast<PyObject*>(Py_TYPE(object.ptr()));
    const PyObject* const known = types_.ptr();
    bool plain = false;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(known); ++i) plain |= PyTuple_GET_ITEM(known, i) == type;
    if (!plain) return false;
    if (api_->describe(object.ptr(), &tensor) == 0)
      return tensor.ndim == 0 || (tensor.shape != nullptr && tensor.strides != nullptr);
    PyErr_Clear();
    return false;
  }

  struct HostView {
    std::uint64_t address = 0;  // 0: it is none
    DType dtype{};
    std::vector<std::int64_t> sizes;
  };

  // Of a plain row-major tensor on the host with memory for all its elements.
  HostView host_view(const py::object& object) const {
    dlpack::Tensor tensor{};
    if (!describe(object, tensor) || tensor.device.type != dlpack::host) return {};
    const std::optional<DType> dtype = dtype_of(tensor.dtype);
    const std::uint64_t address = address_of(tensor);
    if (!dtype || address == 0 || address % size_of(*dtype) != 0) return {};
    // Whatever allocates or calls Python may run code that leaves nothing of `tensor`: it is read first.
    std::int64_t numel = 1;
    bool row_major = true;
    HostView view{address, *dtype, {tensor.shape, tensor.shape + tensor.ndim}};
    for (std::int32_t i = tensor.ndim - 1; i >= 0; --i) {
      row_major &= tensor.shape[i] == 1 || tensor.strides[i] == numel;
      numel *= tensor.shape[i];
    }
    const auto size = static_cast<int>(size_of(*dtype));
    if (numel == 0 || !row_major || !has_memory(object, numel * size, size)) return {};
    return view;
  }

  // Strides count for axes longer than 1 only, as for torch's is_contiguous.
  bool is_as_before(const py::object& object, const Kind& kind, std::uint64_t& address, std::uint64_t turn) {
    dlpack::Tensor tensor{};
    if (Py_TYPE(object.ptr()) != kind.type || !describe(object, tensor)) return false;
    if (tensor.ndim != kind.ndim || !(tensor.dtype == kind.dtype) || !(tensor.device == kind.device)) return false;
    const std::int64_t* const axes = axes_.data() + kind.axes;
    for (std::int32_t i = 0; i < tensor.ndim; ++i)
      if (tensor.shape[i] != axes[2 * i] || (tensor.shape[i] > 1 && tensor.strides[i] != axes[2 * i + 1])) return false;
    address = address_of(tensor);
    if (kind.own == 0 || address == kind.address) return true;
    const std::optional<std::int64_t> extent = extent_of(tensor);
    // Modes of torch may run Python code in here: nothing of `tensor` or `kind` is used behind it.
    return address != 0 && address % std::max(tensor.dtype.bits / 8, 1) == 0 && extent &&
           has_memory(object, *extent, tensor.dtype.bits / 8) && turn == turn_;
  }

  // Python's `pointer_within` and `is_neg`, for a tensor that has moved.
  bool has_memory(const py::object& object, std::int64_t extent, int item) const {
    const py::object negated = call(object, is_neg_);
    if (!negated.is(py::handle(Py_False))) {
      PyErr_Clear();
      return false;
    }
    const std::optional<std::int64_t> offset = number_of(call(object, storage_offset_));
    const py::object storage = call(object, untyped_storage_);
    const std::optional<std::int64_t> bytes = storage ? number_of(call(storage, nbytes_)) : std::nullopt;
    PyErr_Clear();
    if (!offset || !bytes || *offset > std::numeric_limits<std::int64_t>::max() / 16) return false;
    return *bytes - *offset * item >= extent;
  }

  py::object capsule_;
  const dlpack::ExchangeApi* api_;
  py::tuple types_;
  py::str is_neg_{"is_neg"}, storage_offset_{"storage_offset"}, untyped_storage_{"untyped_storage"}, nbytes_{"nbytes"};
  std::vector<Kind> kinds_;
  std::vector<std::int64_t> axes_;
  std::vector<std::uint64_t> found_;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges_;
  bool apart_ = false;
  std::uint64_t turn_ = 0;  // changes whenever another call has touched what is remembered
};

// pybind11 hands out raw memory for an object whose __init__ has not run.
Addresses& made(const py::object& self) {
  auto* const instance = reinterpret_cast<py::detail::instance*>(self.ptr());
  if (!py::isinstance<Addresses>(self) || !instance->get_value_and_holder().holder_constructed())
    throw py::type_error("Addresses.__init__() has not been called");
  return self.cast<Addresses&>();
}

}  // namespace

void bind_addresses(py::module_& module) {
  py::class_<Addresses>(module, "Addresses")
      .def(py::init<py::object, const py::tuple&>(), py::arg("api"), py::arg("types"))
      .def(
          "remember",
          [](const py::object& self, const py::list& tensors, bool apart) {
            return made(self).remember(tensors, apart);
          },
          py::arg("tensors"), py::arg("apart") = false)
      .def(
          "read",
          [](const py::object& self, const py::list& tensors, const py::buffer& out, const py::buffer& places) {
            return made(self).read(tensors, out, places);
          },
          py::arg("tensors"), py::arg("out"), py::arg("places"))
      .def(
          "host_columns",
          [](const py::object& self, const py::list& tensors, const std::optional<py::list>& like) {
            return made(self).host_columns(tensors, like);
          },
          py::arg("tensors"), py::arg("like") = py::none())
      .def(
          "of_other_shapes",
          [](const py::object& self, const py::list& tensors, const py::list& shapes) {
            return made(self).of_other_shapes(tensors, shapes);
          },
          py::arg("tensors"), py::arg("shapes"))
      .def_static("knows", &Addresses::knows, py::arg("api"));
}

}  // namespace bittersweet::python
