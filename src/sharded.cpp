// The composition root for models that several processes hold: the flow over ranks on the CPU engine.
#include "bittersweet/sharded.hpp"

#include "bittersweet/sharded/flow.hpp"
#include "call.hpp"
#include "checks.hpp"

namespace bittersweet {
namespace {

using Flow = flow::Sharded<CpuEngine>;

}  // namespace

struct ShardedPrune::Implementation {
  std::vector<ScoreInputs> tensors;
  std::vector<std::int64_t> whole;
  std::vector<std::string> names;
  std::vector<std::uint64_t*> masks;
  std::optional<Flow> flow{};
};

ShardedPrune::ShardedPrune(const ShardMap& map, std::int64_t rank, std::span<const ScoreInputs> tensors,
                           std::span<const std::int64_t> whole, std::span<const std::string> names,
                           const Scorer& scorer, const Budget& budget, const PruneOptions& options,
                           const std::string& agreement, std::optional<MaskTable> masks, Workspace& workspace)
    : implementation_(new Implementation{
          {tensors.begin(), tensors.end()}, {whole.begin(), whole.end()}, {names.begin(), names.end()}, {}}) {
  const Call call("bittersweet::ShardedPrune");
  check_alignment(tensors);
  Implementation& own = *implementation_;
  if (masks) own.masks.assign(masks->begin(), masks->end());
  own.flow.emplace(cpu_engine(),
                   flow::ShardedInputs{.map = &map,
                                       .rank = rank,
                                       .tensors = own.tensors,
                                       .whole = own.whole,
                                       .names = own.names,
                                       .agreement = agreement,
                                       .masks = own.masks,
                                       .threshold_only = !masks},
                   scorer, budget, options, workspace);
}

ShardedPrune::~ShardedPrune() = default;
ShardedPrune::ShardedPrune(ShardedPrune&&) noexcept = default;
ShardedPrune& ShardedPrune::operator=(ShardedPrune&&) noexcept = default;

std::span<std::int32_t> ShardedPrune::next(bool fault) {
  const Call call("bittersweet::ShardedPrune::next");
  return implementation_->flow->next(fault);
}

const PruneReport& ShardedPrune::report() const { return implementation_->flow->report(); }
std::int64_t ShardedPrune::rounds() const { return implementation_->flow->rounds(); }
std::int64_t ShardedPrune::bytes() const { return implementation_->flow->bytes(); }
const std::string& ShardedPrune::agreement() const { return implementation_->flow->agreement(); }

std::vector<std::int32_t> ShardedPrune::fault_vector() {
  std::vector<std::int32_t> vector(1 + Flow::first_length());
  vector[0] = 1;
  return vector;
}

}  // namespace bittersweet
