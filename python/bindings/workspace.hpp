// One warm workspace for the process. Whoever finds it in use takes a fresh one.
#pragma once

#include <memory>

#include "bittersweet/prune.hpp"

namespace bittersweet::python {

class BorrowedWorkspace {
 public:
  BorrowedWorkspace();
  ~BorrowedWorkspace();
  BorrowedWorkspace(const BorrowedWorkspace&) = delete;
  BorrowedWorkspace& operator=(const BorrowedWorkspace&) = delete;
  Workspace& operator*() noexcept { return *workspace_; }

 private:
  std::unique_ptr<Workspace> workspace_;
};

std::size_t shared_workspace_bytes();  // 0 while it is in use
void release_shared_workspace();

}  // namespace bittersweet::python
