// C++ exceptions become the classes of bittersweet.errors, which users catch.
#include "table.hpp"

namespace py = pybind11;

namespace bittersweet::python {
namespace {

void raise(const char* type, const std::exception& error) {
  const py::object cls = py::module_::import("bittersweet.errors").attr(type);
  PyErr_SetString(cls.ptr(), error.what());
}

void raise_nonfinite(const NonFiniteScoreError& error) {
  const py::object cls = py::module_::import("bittersweet.errors").attr("NonFiniteScoreError");
  py::object instance = cls(error.what());
  instance.attr("parameter") = error.parameter();
  instance.attr("count") = error.count();
  instance.attr("first_index") = error.first_index();
  PyErr_SetObject(cls.ptr(), instance.ptr());
}

}  // namespace

void bind_errors(py::module_&) {
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const NonFiniteScoreError& error) {
      raise_nonfinite(error);
    } catch (const ArgumentError& error) {
      raise("ArgumentError", error);
    } catch (const ShapeError& error) {
      raise("ShapeError", error);
    } catch (const DTypeError& error) {
      raise("DTypeError", error);
    } catch (const DeviceError& error) {
      raise("DeviceError", error);
    } catch (const LayoutError& error) {
      raise("LayoutError", error);
    } catch (const MissingStateError& error) {
      raise("MissingStateError", error);
    } catch (const RanksDisagree& error) {
      raise("RanksDisagree", error);
    } catch (const RankFailed& error) {
      raise("RankFailed", error);
    } catch (const ReplicasDiffer& error) {
      raise("ReplicasDiffer", error);
    } catch (const DistributedError& error) {
      raise("DistributedError", error);
    } catch (const Error& error) {
      raise("Error", error);
    }
  });
}

}  // namespace bittersweet::python
