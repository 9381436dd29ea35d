// One warm workspace for the process. A call that finds it in use by another thread takes a fresh one.
#pragma once

#include <memory>
#include <mutex>

#include "bittersweet/prune.hpp"

namespace bittersweet::python {

class BorrowedWorkspace {
 public:
  BorrowedWorkspace();
  Workspace& operator*() noexcept { return *workspace_; }

 private:
  std::unique_lock<std::mutex> lock_;
  std::unique_ptr<Workspace> own_;
  Workspace* workspace_;
};

std::size_t shared_workspace_bytes();
void release_shared_workspace();

}  // namespace bittersweet::python
