// The exceptions that Bittersweet throws. Every message names the argument, what was found, what is accepted and
// what to do; nothing has been changed when one is thrown.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

namespace bittersweet {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class ArgumentError : public Error {  // a parameter out of range, an unknown name, two options that exclude each other
 public:
  using Error::Error;
};

class ShapeError : public Error {  // sizes that do not fit together
 public:
  using Error::Error;
};

class DTypeError : public Error {  // an element type that is not f32, f16 or bf16
 public:
  using Error::Error;
};

class DeviceError : public Error {  // no engine for this device
 public:
  using Error::Error;
};

class LayoutError : public Error {  // memory that cannot be read as a row-major array
 public:
  using Error::Error;
};

class MissingStateError : public Error {  // the scorer reads an input that this tensor does not have
 public:
  using Error::Error;
};

class NonFiniteScoreError : public Error {  // NaN scores under NonFinite::error
 public:
  NonFiniteScoreError(std::string parameter, std::int64_t count, std::int64_t first_index)
      : Error(
            "scores: " + std::to_string(count) + " NaN score(s), the first in '" + parameter + "' at flat index " +
            std::to_string(first_index) +
            "; selection needs numbers. Find the NaN in the weight or its optimizer state, or pass nonfinite=\"keep\" "
            "to leave NaN-scored weights unpruned"),
        parameter_(std::move(parameter)),
        count_(count),
        first_index_(first_index) {}
  const std::string& parameter() const noexcept { return parameter_; }
  std::int64_t count() const noexcept { return count_; }
  std::int64_t first_index() const noexcept { return first_index_; }

 private:
  std::string parameter_;
  std::int64_t count_;
  std::int64_t first_index_;
};

// Ranks that work on one model could not go on. Every rank throws in the same round.
class DistributedError : public Error {
 public:
  using Error::Error;
};

class RanksDisagree : public DistributedError {  // they were given different arguments
 public:
  using DistributedError::DistributedError;
};

class RankFailed : public DistributedError {  // another rank threw something else
 public:
  using DistributedError::DistributedError;
};

class ReplicasDiffer : public DistributedError {  // copies of one tensor would get different masks
 public:
  using DistributedError::DistributedError;
};

}  // namespace bittersweet
