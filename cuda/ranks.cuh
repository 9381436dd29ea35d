// The flow over ranks on the device's engine. The same text runs on a stream and on the emulator.
#pragma once

#include <functional>

#include "owned_rounds.hpp"
#include "ranks_engine.cuh"

namespace bittersweet::cuda {

// `call(f)` makes a launcher, whatever a call of the host sets up around it, and calls f with it.
template <class L>
class DeviceRounds final : public flow::OwnedRounds<RanksEngine<L>> {
 public:
  using Call = std::function<void(const std::function<void(L&)>&)>;

  DeviceRounds(const flow::ShardedArguments& given, Call call, void* memory, std::size_t bytes, Workspace& host)
      : flow::OwnedRounds<RanksEngine<L>>(given), engine_(given.tensors, memory, bytes), call_(std::move(call)) {
    check_addresses(given.tensors);
    this->begin(engine_, given, host);
  }

  std::span<std::int32_t> next(bool fault) override {
    std::span<std::int32_t> vector;
    call_([&](L& launcher) {
      engine_.use(launcher);
      vector = flow::OwnedRounds<RanksEngine<L>>::next(fault);
    });
    return vector;
  }

 private:
  RanksEngine<L> engine_;
  Call call_;
};

}  // namespace bittersweet::cuda
