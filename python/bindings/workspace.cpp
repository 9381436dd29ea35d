#include "workspace.hpp"

#include <mutex>

namespace bittersweet::python {
namespace {

std::mutex mutex;
std::unique_ptr<Workspace> shared;  // null while somebody has it

}  // namespace

BorrowedWorkspace::BorrowedWorkspace() {
  {
    const std::scoped_lock lock(mutex);
    workspace_ = std::move(shared);
  }
  if (!workspace_) workspace_ = std::make_unique<Workspace>();
}

BorrowedWorkspace::~BorrowedWorkspace() {
  const std::scoped_lock lock(mutex);
  if (!shared) shared = std::move(workspace_);
}

std::size_t shared_workspace_bytes() {
  const std::scoped_lock lock(mutex);
  return shared ? shared->reserved() : 0;
}

void release_shared_workspace() {
  const std::scoped_lock lock(mutex);
  shared.reset();
}

}  // namespace bittersweet::python
