#include "workspace.hpp"

namespace bittersweet::python {
namespace {

std::mutex mutex;
Workspace shared;

}  // namespace

BorrowedWorkspace::BorrowedWorkspace() : lock_(mutex, std::try_to_lock), workspace_(&shared) {
  if (lock_.owns_lock()) return;
  own_ = std::make_unique<Workspace>();
  workspace_ = own_.get();
}

std::size_t shared_workspace_bytes() {
  const std::scoped_lock lock(mutex);
  return shared.reserved();
}

void release_shared_workspace() {
  const std::scoped_lock lock(mutex);
  shared.release();
}

}  // namespace bittersweet::python
