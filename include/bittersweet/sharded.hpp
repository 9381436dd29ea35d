// One exact pruning by several processes, each of which holds a part of the model. It knows neither torch nor MPI: the
// caller adds vectors of int32 over the ranks. Threshold, counts and mask bits are those of make_masks() on the whole
// model, however it is cut.
//
//   ShardedPrune run(map, rank, ...);                  // on every rank
//   for (std::span<std::int32_t> vector; !(vector = run.next()).empty();)
//     all_reduce(vector);                              // the sum over all ranks, in place
//   run.report();                                      // the masks are complete
//
// Promises, beside those of prune.hpp: all ranks make the same number of rounds with vectors of the same length, and
// throw in the same round. Until next() has returned an empty span, nothing but mask buffers was written; whoever
// writes zeros only then writes them on all ranks or on none.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "bittersweet/prune.hpp"
#include "bittersweet/shard_map.hpp"

namespace bittersweet {

class ShardedPrune {
 public:
  // What an engine does of it; the functions below say what.
  struct Rounds {
    virtual ~Rounds() = default;
    virtual std::span<std::int32_t> next(bool fault) = 0;
    virtual const PruneReport& report() const = 0;
    virtual std::int64_t rounds() const = 0;
    virtual std::int64_t bytes() const = 0;
    virtual const std::string& agreement() const = 0;
  };
  explicit ShardedPrune(std::unique_ptr<Rounds> rounds) : rounds_(std::move(rounds)) {}

  // On the CPU (cuda_sharded.hpp: on a device). `tensors`: what this rank holds (parts without elements may be among
  // it); whole[i]: the position in the map of the tensor that the i-th is a part of. Parts of one tensor come in the
  // order of the map's boxes. names: of all tensors of the map. masks[i] as for make_masks; without masks, only the
  // threshold is sought, as by threshold(). `agreement`: what else must be alike on all ranks, in lines "name: value".
  // Selector exact. All that is borrowed, the map and the workspace too, must live as long as this. Throws as
  // make_masks does, and ShapeError where the scope needs rows or groups that are split between ranks.
  ShardedPrune(const ShardMap& map, std::int64_t rank, std::span<const ScoreInputs> tensors,
               std::span<const std::int64_t> whole, std::span<const std::string> names, const Scorer& scorer,
               const Budget& budget, const PruneOptions& options, const std::string& agreement,
               std::optional<MaskTable> masks, Workspace& workspace);

  // The next vector, which holds this rank's numbers: replace it by the sum over all ranks, then call again. Empty: all
  // is done. Its memory stays where it is as long as this lives. With `fault` it says that this rank cannot go on.
  // Throws, on every rank in the same call: RanksDisagree, ReplicasDiffer, NonFiniteScoreError; and where a rank
  // failed, RankFailed, but on that rank what it threw itself. After that, this object is of no more use.
  std::span<std::int32_t> next(bool fault = false) { return rounds_->next(fault); }

  // Of the whole model, alike on all ranks, tensors in the order of the map; but passes and extra_bytes are of this
  // rank. empty_rows is -1 where rows are split between ranks.
  const PruneReport& report() const { return rounds_->report(); }
  std::int64_t rounds() const { return rounds_->rounds(); }
  std::int64_t bytes() const { return rounds_->bytes(); }                // that this rank put into vectors
  const std::string& agreement() const { return rounds_->agreement(); }  // all that must be alike: "name: value"

  // Throws what the constructor would throw for these alone: where rows, groups of inputs or positions are asked for
  // that the map has split, and what only one process can do. So that it is known before there are tensors.
  static void check(const ShardMap& map, std::span<const std::string> names, const Scorer& scorer,
                    const PruneOptions& options);

  // A first vector of a rank that could not make a ShardedPrune: the others will throw RankFailed after its sum.
  static std::vector<std::int32_t> fault_vector();

 private:
  std::unique_ptr<Rounds> rounds_;
};

}  // namespace bittersweet
