// The composition root for models that several processes hold: the flow over ranks on the CPU engine.
#include "bittersweet/sharded.hpp"

#include "call.hpp"
#include "checks.hpp"
#include "owned_rounds.hpp"

namespace bittersweet {
namespace {

class HostRounds final : public flow::OwnedRounds<CpuEngine> {
 public:
  HostRounds(const flow::ShardedArguments& given, Workspace& workspace) : OwnedRounds(given) {
    const Call call("bittersweet::ShardedPrune");
    check_alignment(given.tensors);
    begin(cpu_engine(), given, workspace);
  }

  std::span<std::int32_t> next(bool fault) override {
    const Call call("bittersweet::ShardedPrune::next");
    return OwnedRounds::next(fault);
  }
};

}  // namespace

ShardedPrune::ShardedPrune(const ShardMap& map, std::int64_t rank, std::span<const ScoreInputs> tensors,
                           std::span<const std::int64_t> whole, std::span<const std::string> names,
                           const Scorer& scorer, const Budget& budget, const PruneOptions& options,
                           const std::string& agreement, std::optional<MaskTable> masks, Workspace& workspace)
    : ShardedPrune(std::make_unique<HostRounds>(
          flow::ShardedArguments{map, rank, tensors, whole, names, scorer, budget, options, agreement, masks},
          workspace)) {}

void ShardedPrune::check(const ShardMap& map, std::span<const std::string> names, const Scorer& scorer,
                         const PruneOptions& options) {
  flow::check_sharded({.map = &map, .names = names}, scorer, options);
}

std::vector<std::int32_t> ShardedPrune::fault_vector() {
  std::vector<std::int32_t> vector(1 + flow::Sharded<CpuEngine>::first_length());
  vector[0] = 1;
  return vector;
}

}  // namespace bittersweet
