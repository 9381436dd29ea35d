// What the emulator tells whoever watches memory (watch.cpp). Nobody does unless that file is linked.
#pragma once

#include <cstddef>

#include "support/simt/simt.hpp"

namespace simt {

class Watcher {
 public:
  virtual ~Watcher() = default;
  virtual void begin(const Grid& grid, unsigned char* const* shared) = 0;  // of each block
  virtual void end() = 0;
  virtual void warp_met() = 0;  // the running thread's, in __syncwarp; other collectives order no memory
  virtual void block_met() = 0;
  virtual void begin_atomic(const void* address, std::size_t bytes) = 0;
  virtual void end_atomic() = 0;
  virtual void fence() = 0;
  virtual void rubbish(const void* data, std::size_t bytes) = 0;
};

extern Watcher* watcher;

struct Span {
  const unsigned char* data = nullptr;
  std::size_t bytes = 0;
  bool holds(const void* address, std::size_t count) const {
    const auto at = static_cast<const unsigned char*>(address);
    return at >= data && at + count <= data + bytes;
  }
};
extern Span stack;  // of the running fibre

void take_step();  // towards the end of the launch's patience

}  // namespace simt
