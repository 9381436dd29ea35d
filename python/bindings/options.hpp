// What the selections for the host and for CUDA share: words to options, and a float to Python without a conversion.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>
#include <string>

#include "bittersweet/prune.hpp"

namespace bittersweet::python {

std::optional<Ties> to_ties(const std::optional<std::string>& given);
NonFinite to_nonfinite(const std::string& given);

// A double without a floating-point conversion: the caller's mode may flush denormal floats to zero. None for none.
pybind11::object exactly(const std::optional<float>& value);

template <class T>
T choose(const char* argument, const std::string& given, std::initializer_list<std::pair<const char*, T>> accepted) {
  std::string names;
  for (const auto& [name, value] : accepted) {
    if (given == name) return value;
    names += std::string(names.empty() ? "'" : ", '") + name + "'";
  }
  throw ArgumentError(std::string(argument) + ": '" + given + "'; accepted are " + names);
}

}  // namespace bittersweet::python
