// Scratch memory that stays warm between calls. First use of fresh pages costs more than a whole pass over the
// weights, so a training loop should keep one Workspace and pass it to every call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

namespace bittersweet {

// Not thread-safe: one call at a time. Buffers only grow; memory is reserved, and costs nothing until it is written.
class Workspace {
 public:
  enum Slot : std::size_t { sample, scores, first_arena };

  // Uninitialised memory for `count` T, valid until the next request for the same slot. Throws std::bad_alloc.
  template <class T>
  T* get(std::size_t slot, std::size_t count) {
    if (slot >= buffers_.size()) buffers_.resize(slot + 1);
    Buffer& buffer = buffers_[slot];
    const std::size_t bytes = count * sizeof(T);
    if (buffer.size < bytes) {
      buffer = {};
      buffer.data.reset(static_cast<std::byte*>(::operator new(bytes, std::align_val_t{64})));
      buffer.size = bytes;
    }
    return reinterpret_cast<T*>(buffer.data.get());
  }

  // A second set of slots, for work on what lies in the first.
  Workspace& nested() {
    if (!nested_) nested_ = std::make_unique<Workspace>();
    return *nested_;
  }

  // Reserved bytes; those never written are not resident.
  std::size_t reserved() const noexcept {
    std::size_t total = nested_ ? nested_->reserved() : 0;
    for (const Buffer& buffer : buffers_) total += buffer.size;
    return total;
  }

  void release() noexcept {
    buffers_.clear();
    nested_.reset();
  }

 private:
  struct Free {
    void operator()(std::byte* p) const noexcept { ::operator delete(p, std::align_val_t{64}); }
  };
  struct Buffer {
    std::unique_ptr<std::byte, Free> data;
    std::size_t size = 0;
  };
  std::vector<Buffer> buffers_;
  std::unique_ptr<Workspace> nested_;
};

}  // namespace bittersweet
