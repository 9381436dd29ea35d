// What one instruction set offers: a table of functions over tiles: at most 2,048 elements that lie in the first cache,
// or a whole chunk where nothing had to be converted. Filled by verbs_*.cpp, chosen once by isa.cpp. Threads and
// tensors are engine.cpp's business.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>

#include "bittersweet/engine/optim.hpp"
#include "bittersweet/engine/summaries.hpp"
#include "bittersweet/engine/track.hpp"
#include "bittersweet/score/scorers.hpp"
#include "cpu/prefetch.hpp"

namespace bittersweet::cpu {

inline constexpr std::int64_t tile_size = 2048;
inline constexpr std::size_t scorer_count = std::variant_size_v<Scorer>;

enum Stored : std::size_t { as_f32, as_bf16, stored_count };  // how a tile's arrays are stored: all alike

// One tile: pointers to its first element, of the Stored type; those the scorer does not read are null.
struct TileInput {
  const void* w = nullptr;
  const void* m = nullptr;
  const void* v = nullptr;
  const void* g = nullptr;
  const void* norm = nullptr;
  const void* score = nullptr;
  const void* uniform = nullptr;
  float bias_correction1 = 1.0f;
  float modifier = 1.0f;
};

// How a bracket is decided: by the score (no modifiers); by the score times its modifier, with equality counted in
// registers; by the power form; by the power form with zeros below.
enum class Decide : std::size_t { by_score, by_score_heavy, by_power, by_power_above_zero, count };

struct BracketPlan {
  Bracket bracket;
  Decide decide = Decide::by_score;
  float scale = 1.0f;       // of the weights in the power form: a power of two that keeps the ends' powers mid-range
  float power_low = 0.0f;   // scores whose power lies under it are surely below the bracket
  float power_high = 0.0f;  // at or above it: surely above
  // For magnitudes of bf16: the least bits at or above the low end, the least above the high end; are the ends bf16?
  std::int16_t bits_low = 0;
  std::int16_t bits_high = 0;
  bool bits_hold_low = false;
  bool bits_hold_high = false;
};

// What a thread carries from tile to tile.
struct BracketState {
  BracketCounts counts;
  float* scores = nullptr;  // candidates of this thread
  std::uint16_t* offsets = nullptr;
  std::int64_t capacity = 0;
  std::int64_t stored = 0;
  bool overflow = false;
};

// A tile's place: index of its first element within the chunk, live bits and output words (either may be null).
struct TilePlace {
  std::uint32_t offset;
  std::int64_t count;
  const std::uint64_t* live;
  std::uint64_t* mask;
};

// Arrays to be masked together; null pointers are skipped.
struct ApplyArrays {
  std::array<void*, 5> data{};
  std::array<bool, 5> narrow{};  // 16-bit elements
};

// Which scores of a group go: those below the threshold, and the first `ties` of those equal to it.
struct Cut {
  float threshold;
  std::int64_t ties;
};

// What one pass counts around one to seven thresholds, numbers: those in ascending order, the last repeated.
struct CutCounts {
  static constexpr std::size_t most = 7;
  alignas(64) std::array<float, 32> cut{};  // NaN behind the last
  // Scores above cut i - 1 and up to cut i; and those that equal it, where it is the first of its value.
  std::array<std::int64_t, most + 1> up_to{}, equal{};
  alignas(64) std::array<std::uint32_t, 64> lanes{};  // what is not in them yet,
  int words = 0;                                      // of so many words

  explicit CutCounts(std::span<const float> thresholds) {
    cut.fill(std::numeric_limits<float>::quiet_NaN());
    const auto last = std::copy(thresholds.begin(), thresholds.end(), cut.begin());
    std::sort(cut.begin(), last);
    std::fill(last, cut.begin() + most, *(last - 1));
  }
  CountsAt at(float threshold) const {
    const auto place = static_cast<std::size_t>(std::find(cut.begin(), cut.end(), threshold) - cut.begin());
    const std::int64_t reached = std::accumulate(up_to.begin(), up_to.begin() + place + 1, std::int64_t{0});
    return {reached - equal[place], equal[place]};
  }
};

// Room for a row's search, each as long as the row in whole words, and 64 more; and where the k-th is looked for first,
// as upper halves of keys (signed_key.hpp).
struct RowSearch {
  std::int16_t* halves = nullptr;
  std::int32_t* places = nullptr;
  std::int32_t* keys = nullptr;
  int guess = 0;
  int spread = 2;
};

// A row against a bracket, both ends included: the live scores that lie inside, and NaN, in order, as bits and as a
// list.
struct RowRead {
  Bracket bracket;
  std::uint64_t* inside = nullptr;
  float* listed = nullptr;  // room for as many, and 64 more
  std::int64_t room = 0;
  std::int64_t count = 0;  // > room: not all are listed
  std::int64_t kept = 0;   // all but those below it
};

// A rank among scores that are listed: the score of that rank, NaN if one of them is; how many are below it, and equal.
struct ListedRank {
  float threshold = 0.0f;
  std::int64_t below = 0;
  std::int64_t equal = 0;
};

// Groups of no more elements than these are ranked by comparing every two.
inline constexpr std::int64_t few_lanes = 12;

// A tile of a row, and where in it its words are. Rows that are read side by side cover each other's latency.
struct RowTile {
  static constexpr std::size_t most = 4, room = few_lanes;  // rows; inputs of groups that interleave
  TileInput in;
  std::int64_t word = 0;                // of the row
  const std::uint64_t* live = nullptr;  // from there on; null: all
  std::uint64_t* keep = nullptr;
  RowRead* read = nullptr;
  std::int64_t gap = 0;  // elements from its end to the place that is read next
};

// Where the groups before were cut, as upper halves of keys (signed_key.hpp): most of them so near the center.
// Negative: there are none.
struct LaneGuess {
  std::int32_t center = 0;
  std::int32_t reach = -1;
};

// What will be read next. Work on what has been read asks for 16 elements of every array here and there.
struct ReadNext {
  static constexpr std::size_t most = 4;
  static constexpr std::int64_t elements = 16;
  std::array<const char*, most> at{};
  std::array<std::size_t, most> bytes{};  // of so many elements
  std::size_t arrays = 0;
  std::int64_t left = 0;  // times to ask
};

// The groups of a row: `size` inputs at each of `inner` places, so many blocks of them.
struct RowGroups {
  std::int64_t blocks = 0, size = 0, inner = 1;

  BITTERSWEET_FORMULA std::int64_t count() const noexcept { return blocks * size * inner; }
  // Element by element, so many integers for one, in whole words of bits; and room for a group and a vector behind all.
  BITTERSWEET_FORMULA std::int64_t stride() const noexcept { return bits::words(blocks * inner) * bits::per_word; }
  BITTERSWEET_FORMULA std::int64_t room() const noexcept { return size * (stride() + inner) + bits::per_word; }
};

// Room for its work: RowGroups::room() keys, three times as many bits, and the row's own bits.
struct GroupScratch {
  std::int32_t* keys = nullptr;
  std::uint64_t* gone = nullptr;
  std::uint64_t* dropped = nullptr;
};

// 64 groups side by side, element by element: the upper halves of their keys, the lower ones or null, and their live
// bits, a word for each element.
struct LaneBlock {
  std::int64_t size = 0;  // elements of a group
  const std::int16_t* upper = nullptr;
  const std::int16_t* lower = nullptr;
  bool nans = false;  // is one NaN?
  std::uint64_t* keep = nullptr;
  ReadNext next;
  // Of lanes whose bit is set in `open`, the places of the elements among which the cut lies, in order. So many of the
  // lowest of them go as well.
  std::uint64_t* listed = nullptr;  // room for 64 * size, a lane's from lane * size on
  std::uint64_t open = 0;
  std::array<std::int32_t, 64> listed_of{};
  std::array<std::int32_t, 64> more_go{};
};

struct RowOutcome {
  Cut cut;
  std::int64_t nan = 0;
};

// One block of a tracked tensor, all f32: Moments::block elements or fewer. `live` may be null.
struct TrackBlock {
  const float* w = nullptr;
  const float* m = nullptr;         // snapshot, retention
  const float* v = nullptr;         // snapshot
  const float* snapshot = nullptr;  // snapshot
  float* previous = nullptr;        // coherence
  float* average = nullptr;         // coherence
  const std::uint64_t* live = nullptr;
  std::int64_t count = 0;
  std::int64_t ahead = far_ahead;  // how far to ask
};

// How an optimizer's arrays are stored: weights and gradients, then the states.
enum class AdamArrays : std::size_t { f32, bf16, bf16_f32, f16_f32, count };

// Which dead elements a pass leaves unread: they hold zeros already.
enum class Skip : std::uint8_t { nothing, words, lines };  // words: 64 elements; lines: one vector

// One chunk of a tensor. The last `rest` elements are the scalar loop's of AdamRounding.
struct AdamChunk {
  void* w = nullptr;
  void* g = nullptr;
  void* m = nullptr;
  void* v = nullptr;
  void* largest = nullptr;  // AMSGrad's buffer, or null
  const std::uint64_t* keep = nullptr;
  std::int64_t count = 0;
  std::int64_t rest = 0;
  Skip skip = Skip::nothing;
  bool weights_only = false;
  const RoundingKey* draw = nullptr;  // of the tensor, if its bf16 arrays are rounded stochastically
  std::int64_t first = 0;             // place of the chunk in the tensor, a multiple of 64
};

struct Kernels {
  const char* name;
  std::int64_t lanes;  // floats of a vector
  bool (*contracts)();
  void (*score[scorer_count][stored_count])(const Scorer&, const TileInput&, std::int64_t count, float* out);
  void (*bracket[scorer_count][stored_count])(const Scorer&, const TileInput&, const BracketPlan&, const TilePlace&,
                                              BracketState&);
  void (*from_f16)(const std::uint16_t*, std::int64_t count, float* out);
  void (*from_bf16)(const std::uint16_t*, std::int64_t count, float* out);
  void (*uniform)(std::uint64_t seed, std::uint64_t position, std::int64_t count, float* out);
  void (*histogram[scorer_count][stored_count])(const Scorer&, const TileInput&, const std::uint64_t* live,
                                                std::int64_t count, const Digit&, std::uint32_t* bins);
  // Of the blocks of a tile, each of Moments::block elements but the last.
  void (*moments[scorer_count][stored_count])(const Scorer&, const TileInput&, const std::uint64_t* live,
                                              std::int64_t count, Moments* blocks);
  // Adds to what the lanes have counted; `sum_lanes` brings `up_to` and `equal` up to date.
  void (*count_cuts[scorer_count][stored_count])(const Scorer&, const TileInput&, const std::uint64_t* live,
                                                 std::int64_t count, CutCounts&);
  void (*sum_lanes)(CutCounts&);
  std::int64_t (*write_mask)(const float* scores, const std::uint64_t* live, std::int64_t count, float threshold,
                             std::int64_t& ties, std::uint64_t* mask);
  void (*apply_mask)(const ApplyArrays&, const std::uint64_t* mask, std::int64_t count);
  std::int64_t (*popcount)(const std::uint64_t* words, std::int64_t count);
  // Rows in one read (row_read.hpp): tiles of them against their brackets; a rank among those inside (`below` and
  // `equal`: which they are, as bits of the list; `keys`: room for as many, and 64 more, like the list); which of a
  // list lie below a threshold, and at it; and bits of the list to bits of the row that are cleared.
  void (*read_rows[scorer_count][stored_count])(const Scorer&, std::span<const RowTile>, std::int64_t count);
  ListedRank (*rank_listed)(float* scores, std::int64_t count, std::int64_t rank, const Bracket&, std::int32_t* keys,
                            std::uint64_t* below, std::uint64_t* equal);
  ListedRank (*compare_listed)(const float* scores, std::int64_t count, float threshold, std::uint64_t* below,
                               std::uint64_t* equal);
  void (*prune_listed)(const std::uint64_t* listed, const std::uint64_t* inside, std::int64_t words,
                       std::uint64_t* keep);
  // A row's k lowest (row_cut.hpp); dead elements out of the way, and the lowest of every few inputs (group.hpp).
  RowOutcome (*drop_lowest_of_row)(const float* scores, std::int64_t count, std::int64_t k, RowSearch&,
                                   std::uint64_t* keep);
  void (*bury)(float* scores, const std::uint64_t* live, std::int64_t words, std::uint32_t bits_of_dead);
  std::int64_t (*drop_lowest_of_groups)(float* row, const RowGroups&, std::int64_t share, const GroupScratch&,
                                        std::uint64_t* keep, ReadNext);
  // Of 64 groups side by side (lane_ranks.hpp), and how they get there (lane_halves.hpp, turn.hpp).
  void (*turn_groups)(const float* from, std::int64_t size, float* to);
  std::int64_t (*split_columns[scorer_count][stored_count])(const Scorer&, std::span<const RowTile> inputs,
                                                            std::int64_t count, std::int64_t first, std::int64_t size,
                                                            std::int16_t* upper, std::uint64_t* keep);
  void (*lower_halves)(const float* scores, std::int64_t j, std::int64_t size, std::int16_t* lower);
  void (*turn_halves)(const std::int16_t* from, std::int64_t size, std::int16_t* to);
  bool (*drop_lowest_across)(LaneBlock&, std::int64_t share, std::int64_t more, LaneGuess&);
  // Of groups of few elements (lane_few.hpp): `inputs` are tiles of as many groups each; or 64 groups, turned.
  std::int64_t (*drop_lowest_of_few[scorer_count][stored_count])(const Scorer&, std::span<const RowTile> inputs,
                                                                 std::int64_t count, std::int64_t share,
                                                                 std::int64_t more);
  std::int64_t (*drop_lowest_of_turned)(const float* scores, std::int64_t size, std::int64_t share, std::int64_t more,
                                        std::uint64_t* keep);
  // Of groups of 4 neighbours (group_ranks.hpp).
  std::int64_t (*drop_lowest_of_four[scorer_count][stored_count])(const Scorer&, std::span<const RowTile>,
                                                                  std::int64_t count, std::int64_t share);
  TrackSums (*coherence)(const TrackBlock&, float decay);
  TrackSums (*retention)(const TrackBlock&);
  TrackSums (*snapshot)(const TrackBlock&);
  void (*movement)(float* accumulator, const float* g, const float* w, std::int64_t count, float rate,
                   std::int64_t ahead);
  void (*stochastic_round)(const float* from, std::uint16_t* to, std::int64_t count, const RoundingKey&,
                           std::int64_t first);
  // One step by [arrays][contracted]; true if a dead weight that it read was not zero.
  bool (*adam[static_cast<std::size_t>(AdamArrays::count)][2])(const AdamStep&, const AdamChunk&);
};

const Kernels& kernels_portable();
const Kernels& kernels_v2();
const Kernels& kernels_v3();
const Kernels& kernels_v4();
const Kernels& kernels_neon();

// The kernels in use: the best that this machine runs, or the one that BITTERSWEET_CPU_ISA names. Throws ArgumentError
// for a name that is unknown or does not run here.
const Kernels& kernels();

}  // namespace bittersweet::cpu
