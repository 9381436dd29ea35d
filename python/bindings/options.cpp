#include "options.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace py = pybind11;

namespace bittersweet::python {

std::optional<Ties> to_ties(const std::optional<std::string>& given) {
  if (!given) return std::nullopt;
  return choose<Ties>("ties", *given,
                      {{"exact", Ties::exact}, {"at_or_below", Ties::at_or_below}, {"below", Ties::below}});
}

NonFinite to_nonfinite(const std::string& given) {
  return choose<NonFinite>("nonfinite", given, {{"error", NonFinite::error}, {"keep", NonFinite::keep}});
}

py::object exactly(const std::optional<float>& value) {
  if (!value) return py::none();
  const auto bits = std::bit_cast<std::uint32_t>(*value);
  const auto exponent = static_cast<int>((bits >> 23) & 0xffu), mantissa = static_cast<int>(bits & 0x7fffffu);
  const double sign = (bits >> 31) ? -1.0 : 1.0;
  if (exponent == 0xff) return py::float_(mantissa ? std::numeric_limits<double>::quiet_NaN() : sign * HUGE_VAL);
  return py::float_(sign * std::ldexp(exponent ? mantissa | 0x800000 : mantissa, std::max(exponent, 1) - 150));
}

}  // namespace bittersweet::python
