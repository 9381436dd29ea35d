// The public functions of bittersweet/cuda.hpp and cuda_sharded.hpp on a stream.
#include "bittersweet/cuda.hpp"

#include "bittersweet/cuda_sharded.hpp"
#include "fp_environment.hpp"
#include "group_step.cuh"
#include "launch.cuh"
#include "nvtx_range.hpp"
#include "ranks.cuh"
#include "selectors.cuh"

namespace bittersweet::cuda {

// Instantiated in the units of their verbs.
extern template void sample(Stream&, const Scorer&, const Context&);
extern template void bracket(Stream&, const Scorer&, const Context&, const Plan&, u32);
extern template void histogram(Stream&, const Scorer&, const Context&, const Work&, u32);
extern template void place_candidates(Stream&, const Context&);
extern template void find_nan(Stream&, const Scorer&, const Context&, const Work&, const std::uint64_t*);
extern template void write_mask(Stream&, const Scorer&, const Context&, const Work&);
extern template void write_scores(Stream&, const Scorer&, std::span<const Row>);
extern template void tally(Stream&, const Context&, const u32*, const KeyRange&, std::span<std::int64_t>);
extern template void count_runs(Stream&, const Scorer&, const Row&, float, const RunRange&, std::span<std::int64_t>);
extern template void gather(Stream&, const Scorer&, const Work&, u32, u32, u64, const std::int64_t*, float*);
extern template void digit_bins(Stream&, const Scorer&, const Work&, const Digit&, std::span<std::int64_t>);
extern template void count_chunks(Stream&, const Scorer&, const Tasks&, float, float, BracketCounts*);
extern template void write_chunks(Stream&, const Scorer&, const Tasks&, float, std::uint64_t*);
extern template void bound_digit(Stream&, const Scorer&, const BoundsArgs&, const Work&, u32);
extern template void count_digits(Stream&, const Scorer&, const SearchContext&, const Work&, Answers);
extern template void sample_scores(Stream&, const Scorer&, const SearchContext&);
extern template void stream(Stream&, const Scorer&, const SearchContext&, const Work&, const Work&);
extern template void guess(Stream&, const Context&);
extern template void plan_retry(Stream&, const Context&);
extern template void select_candidates(Stream&, const Context&);
extern template void rank_groups(Stream&, const Scorer&, const GroupContext&, const Work&, const Work&);
extern template void cut_rows(Stream&, const Scorer&, const GroupContext&, const Work&, const Work&);
extern template void cut_by_digits(Stream&, const Scorer&, const GroupContext&, const Work&);

namespace {

struct WriteBudget {
  static constexpr u32 threads = 32, blocks = 1;
  struct Args {
    StepBudget* budget;
    StepBudget value;
  };
  struct Shared {};
  static BITTERSWEET_DEVICE void body(const Args& args, Shared&) {
    if (threadIdx.x == 0) *args.budget = args.value;
  }
};

}  // namespace

std::size_t step_workspace_bytes(std::span<const ScoreInputs> tensors, const Scorer& scorer, const StepOptions& options,
                                 bool masks) {
  make_view(tensors, scorer);
  flow::check(tensors, prune_options(options));
  if (options.scope.in_groups()) return make_group_layout(tensors.size()).bytes;
  return step_bytes(tensors, options, masks);
}

void step(const Queue& queue, std::span<const ScoreInputs> tensors, const Scorer& scorer, const StepBudget* budget,
          const StepOptions& options, MaskTable new_masks, std::int64_t* tensor_pruned, void* workspace,
          std::size_t workspace_bytes, StepReport* report) {
  const NvtxRange range("bittersweet::cuda::step");
  if (options.scope.in_groups()) {
    const GroupPlan plan =
        make_group_step(tensors, scorer, budget, options, new_masks, tensor_pruned, workspace, workspace_bytes, report);
    Stream stream(queue.device, queue.stream);
    return enqueue_groups(stream, scorer, plan);
  }
  const StepPlan plan =
      make_selected(tensors, scorer, budget, options, new_masks, tensor_pruned, workspace, workspace_bytes, report);
  Stream stream(queue.device, queue.stream);
  enqueue_selected(stream, scorer, plan);
}

void bracket(const Queue& queue, std::span<const ScoreInputs> tensors, const Scorer& scorer, const Bracket& ends,
             MaskTable new_masks, void* workspace, std::size_t workspace_bytes, BracketReport* report) {
  const NvtxRange range("bittersweet::cuda::bracket");
  check_bracket(ends, report);
  const StepPlan plan = make_plan(tensors, scorer, {}, new_masks, workspace, workspace_bytes);
  Stream stream(queue.device, queue.stream);
  enqueue_bracket(stream, scorer, plan, ends, report);
}

void tally(const Queue& queue, std::span<const ScoreInputs> tensors, std::span<const std::int64_t> units,
           const KeyRange& keys, void* workspace, std::size_t workspace_bytes, std::span<std::int64_t> bins) {
  const NvtxRange range("bittersweet::cuda::tally");
  const TallyPlan plan = make_tally(tensors, units, keys, workspace, workspace_bytes, bins);
  Stream stream(queue.device, queue.stream);
  enqueue_tally(stream, plan, keys, bins);
}

void count_runs(const Queue& queue, std::span<const ScoreInputs> tensors, const Scorer& scorer, std::size_t t,
                float value, const RunRange& runs, std::span<std::int64_t> bins) {
  const NvtxRange range("bittersweet::cuda::count_runs");
  const Row row = runs_row(tensors, scorer, t, runs, bins);
  Stream stream(queue.device, queue.stream);
  count_runs(stream, scorer, row, value, runs, bins);
}

std::size_t sharded_workspace_bytes(std::span<const ScoreInputs> tensors) { return ranks_layout(tensors).bytes; }

ShardedPrune sharded_prune(const Queue& queue, const ShardMap& map, std::int64_t rank,
                           std::span<const ScoreInputs> tensors, std::span<const std::int64_t> whole,
                           std::span<const std::string> names, const Scorer& scorer, const Budget& budget,
                           const PruneOptions& options, const std::string& agreement, std::optional<MaskTable> masks,
                           void* workspace, std::size_t workspace_bytes, Workspace& host) {
  const auto call = [queue](const std::function<void(Stream&)>& f) {
    const NvtxRange range("bittersweet::cuda::sharded_prune");
    const FpEnvironment environment;
    Stream stream(queue.device, queue.stream);
    f(stream);
  };
  return ShardedPrune(std::make_unique<DeviceRounds<Stream>>(
      flow::ShardedArguments{map, rank, tensors, whole, names, scorer, budget, options, agreement, masks}, call,
      workspace, workspace_bytes, host));
}

void write_budget(const Queue& queue, StepBudget* budget, const StepBudget& value) {
  const NvtxRange range("bittersweet::cuda::write_budget");
  Stream stream(queue.device, queue.stream);
  stream.launch<WriteBudget>(1, {budget, value});
}

void write_scores(const Queue& queue, std::span<const ScoreInputs> tensors, const Scorer& scorer,
                  std::span<float* const> scores) {
  const NvtxRange range("bittersweet::cuda::write_scores");
  const std::vector<Row> rows = score_rows(tensors, scorer, scores);
  Stream stream(queue.device, queue.stream);
  write_scores(stream, scorer, std::span<const Row>(rows));
}

void apply_masks(const Queue& queue, std::span<const ScoreInputs> tensors, std::span<const std::uint64_t* const> masks,
                 std::uint32_t which, const std::uint32_t* gate) {
  const NvtxRange range("bittersweet::cuda::apply_masks");
  check_addresses(tensors);
  check_masks(tensors, masks.size(), "masks");
  const std::vector<ArrayRow> rows = chosen_arrays(tensors, masks, which);
  Stream stream(queue.device, queue.stream);
  apply_mask(stream, rows, gate);
}

void count_live(const Queue& queue, std::span<const ScoreInputs> tensors, std::span<const std::uint64_t* const> masks,
                std::int64_t* live) {
  const NvtxRange range("bittersweet::cuda::count_live");
  check_masks(tensors, masks.size(), "masks");
  const std::vector<ArrayRow> rows = mask_rows(tensors, masks);
  Stream stream(queue.device, queue.stream);
  count_live(stream, rows, tensors.size(), live);
}

void count_violations(const Queue& queue, std::span<const ScoreInputs> tensors,
                      std::span<const std::uint64_t* const> masks, std::uint32_t which, std::int64_t* found) {
  const NvtxRange range("bittersweet::cuda::count_violations");
  check_addresses(tensors);
  check_masks(tensors, masks.size(), "masks");
  const std::vector<ArrayRow> rows = chosen_arrays(tensors, masks, which);
  Stream stream(queue.device, queue.stream);
  verify_mask(stream, rows, tensors.size(), found);
}

}  // namespace bittersweet::cuda
