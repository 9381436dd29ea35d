// The composition root for host memory: guards the floating-point environment, checks the addresses, and hands the flow
// to the CPU engine. Memory of a GPU goes to the functions of cuda.hpp, on the caller's stream.
#include "bittersweet/prune.hpp"

#include "bittersweet/cuda.hpp"
#include "bittersweet/flow.hpp"
#include "bittersweet/version.hpp"
#include "call.hpp"
#include "checks.hpp"
#include "cpu/isa.hpp"

namespace bittersweet {
namespace {

void check_masks(std::span<const ScoreInputs> tensors, std::size_t masks) {
  if (masks != tensors.size())
    throw ShapeError("masks: " + std::to_string(masks) + " for " + std::to_string(tensors.size()) +
                     " tensors; one is needed for each");
}

}  // namespace

void write_scores(std::span<const ScoreInputs> tensors, const Scorer& scorer, std::span<float* const> scores) {
  const Call call("bittersweet::write_scores");
  check_alignment(tensors);
  check_masks(tensors, scores.size());
  const ScoreView view = make_view(tensors, scorer);
  cpu_engine().write_scores(view, make_chunks(tensors), scores);
}

PruneReport threshold(std::span<const ScoreInputs> tensors, const Scorer& scorer, const Budget& budget,
                      const PruneOptions& options, Workspace& workspace) {
  const Call call("bittersweet::threshold");
  check_alignment(tensors);
  return flow::threshold(cpu_engine(), tensors, scorer, budget, options, workspace);
}

PruneReport make_masks(std::span<const ScoreInputs> tensors, const Scorer& scorer, const Budget& budget,
                       const PruneOptions& options, MaskTable masks, Workspace& workspace) {
  const Call call("bittersweet::make_masks");
  check_alignment(tensors);
  check_masks(tensors, masks.size());
  return flow::make_masks(cpu_engine(), tensors, scorer, budget, options, masks, workspace);
}

void apply_masks(std::span<const ScoreInputs> tensors, std::span<const std::uint64_t* const> masks,
                 std::uint32_t which) {
  const Call call("bittersweet::apply_masks");
  check_alignment(tensors);
  check_masks(tensors, masks.size());
  cpu_engine().apply_mask(tensors, make_chunks(tensors), masks, which);
}

PruneReport prune(std::span<const ScoreInputs> tensors, const Scorer& scorer, const Budget& budget,
                  const PruneOptions& options, MaskTable masks, Workspace& workspace, std::uint32_t which) {
  const Call call("bittersweet::prune");
  PruneReport report = make_masks(tensors, scorer, budget, options, masks, workspace);
  apply_masks(tensors, std::vector<const std::uint64_t*>(masks.begin(), masks.end()), which);
  return report;
}

std::vector<std::int64_t> count_violations(std::span<const ScoreInputs> tensors,
                                           std::span<const std::uint64_t* const> masks, std::uint32_t which) {
  const Call call("bittersweet::count_violations");
  check_alignment(tensors);
  check_masks(tensors, masks.size());
  std::vector<std::int64_t> found(tensors.size());
  cpu_engine().verify_mask(tensors, make_chunks(tensors), masks, which, found);
  return found;
}

std::vector<std::int64_t> count_live(std::span<const ScoreInputs> tensors,
                                     std::span<const std::uint64_t* const> masks) {
  const NvtxRange range("bittersweet::count_live");
  check_masks(tensors, masks.size());
  std::vector<std::int64_t> live(tensors.size());
  cpu_engine().popcount(tensors, masks, live);
  return live;
}

void set_num_threads(int n) {
  if (n < 0) throw ArgumentError("n: " + std::to_string(n) + " threads; 1 or more are accepted, 0 for the default");
  cpu::set_thread_limit(n);
}

int num_threads() { return cpu::thread_limit(); }

bool lend_openmp_threads(const char* name) { return cpu::lend_threads_of(name); }

BuildInfo build_info() {
#if defined(__clang__)
  const std::string compiler = "Clang " __clang_version__;
#elif defined(__GNUC__)
  const std::string compiler = "GCC " __VERSION__;
#else
  const std::string compiler = "unknown";
#endif
#if defined(NDEBUG)
  const std::string type = "release";
#else
  const std::string type = "with assertions";
#endif
  return {BITTERSWEET_VERSION_STRING, compiler, type, cuda::describe(), cpu_engine().isa(), cpu::usable_isas()};
}

}  // namespace bittersweet
