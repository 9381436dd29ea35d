// What the selections on the host share: keyword arguments to options, and reports to dictionaries.
#pragma once

#include "options.hpp"

namespace bittersweet::python {

Distribution to_distribution(const std::string& given);
PruneOptions to_options(const pybind11::tuple& selector, const std::optional<std::string>& ties,
                        const std::string& nonfinite, std::uint64_t seed, bool regrow);

// None for -1, which stands for what nobody counted.
pybind11::object counted(std::int64_t count);

// The keyword arguments of make_masks but those of the budget.
PruneOptions to_mask_options(const pybind11::tuple& selector, const pybind11::kwargs& given);

// The keyword arguments of make_masks.
struct MaskArguments {
  Budget budget;
  PruneOptions options;

  MaskArguments(const pybind11::tuple& selector, const pybind11::kwargs& given);
};

pybind11::dict to_dict(const PruneReport& report);
pybind11::dict masks_to_dict(const PruneReport& report);  // with what is known of each tensor

}  // namespace bittersweet::python
