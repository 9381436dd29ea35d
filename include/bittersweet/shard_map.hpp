// Which rank holds which part of which tensor, and how that is counted. Every rank makes the same map from the boxes of
// all of them; nothing here looks at an array.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bittersweet/engine/summaries.hpp"
#include "bittersweet/error.hpp"
#include "bittersweet/select/limbs.hpp"
#include "bittersweet/tensor_view.hpp"

namespace bittersweet {

// A part of a tensor that a rank holds: along every axis of the whole, where it begins and how much of it there is.
struct Box {
  static constexpr std::size_t most_axes = RunMap::most_axes;
  std::int64_t tensor = 0;
  std::int64_t rank = 0;
  std::array<std::int64_t, most_axes> offset{};
  std::array<std::int64_t, most_axes> size{};
};

class ShardMap {
 public:
  // One distinct box of a tensor. The least rank that holds it counts for it.
  struct Part {
    std::int64_t tensor = 0;
    std::array<std::int64_t, Box::most_axes> offset{}, size{};
    std::int64_t numel = 0;
    std::int64_t first = 0;  // flat index of its first element in the whole
    bool stretch = true;     // are its elements neighbours in the whole?
    std::int64_t rank = 0;
    std::int64_t copies = 1;
    std::int64_t unit = 0;
  };

  // `shapes` of all tensors, in the order in which ties go; `boxes` of all ranks (those without elements may be left
  // out), those of one rank and tensor in the order in which that rank names them. The boxes of a tensor must cover it,
  // and must not overlap but where they are the same. `geometries`: the rows of the whole tensors; if none are given,
  // those of a Linear or convolution. Throws ShapeError or ArgumentError that names the tensor's position.
  ShardMap(std::vector<std::vector<std::int64_t>> shapes, std::span<const Box> boxes, std::int64_t ranks,
           std::vector<Geometry> geometries = {});

  std::int64_t ranks() const noexcept { return ranks_; }
  std::size_t tensors() const noexcept { return shapes_.size(); }
  const std::vector<std::int64_t>& shape(std::size_t t) const { return shapes_[t]; }
  const Geometry& geometry(std::size_t t) const { return geometries_[t]; }
  std::int64_t numel(std::size_t t) const { return position_[t + 1] - position_[t]; }
  std::int64_t position(std::size_t t) const { return position_[t]; }  // elements of the tensors before it
  std::int64_t total() const noexcept { return position_.back(); }

  // Units number, in order of (tensor, flat index), the parts of tensors whose parts are all stretches; any other
  // tensor, a boxed one, is one unit. runs() has for every unit how many runs it is made of; 0: a stretch.
  std::int64_t units() const noexcept { return static_cast<std::int64_t>(runs_.size()); }
  std::int64_t first_unit(std::size_t t) const { return first_unit_[t]; }
  std::int64_t units(std::size_t t) const { return first_unit_[t + 1] - first_unit_[t]; }
  std::span<const std::int64_t> runs() const noexcept { return runs_; }
  bool boxed(std::size_t t) const { return units(t) == 1 && runs_[static_cast<std::size_t>(first_unit_[t])] > 0; }

  // By (tensor, flat index of the first element).
  std::span<const Part> parts() const noexcept { return parts_; }
  std::span<const Part> parts(std::size_t t) const {
    return parts().subspan(first_part_[t], first_part_[t + 1] - first_part_[t]);
  }
  // Positions in parts() of what a rank holds of a tensor, in the order of its boxes.
  const std::vector<std::size_t>& held(std::int64_t rank, std::size_t t) const {
    return held_[static_cast<std::size_t>(rank) * shapes_.size() + t];
  }

  RunMap run_map(const Part& part) const;  // of a part of a boxed tensor

  // Flat index in the whole of the part's element `local`; and the reverse, -1 where it is not in the part.
  std::int64_t global_index(const Part& part, std::int64_t local) const noexcept;
  std::int64_t local_index(const Part& part, std::int64_t global) const noexcept;

  // Does the part hold output rows as a whole? And groups of `of` consecutive inputs?
  bool whole_rows(const Part& part) const;
  bool whole_groups(const Part& part, std::int64_t of) const;
  // How many of the part's rows are among the first `rows` of the whole, given the rows that it has itself.
  std::int64_t rows_among_first(const Part& part, const Geometry& own, std::int64_t rows) const;

  const std::array<std::uint64_t, 2>& digest() const noexcept { return digest_; }  // of all that the map was made from

 private:
  std::string name(std::size_t t) const;
  std::vector<bool> spanned(std::size_t t, std::int64_t extent) const;
  void add(std::span<const Box> boxes);
  void check_cover(std::size_t t) const;
  void count_units();
  void take_digest(std::span<const Box> boxes);

  std::vector<std::vector<std::int64_t>> shapes_;
  std::int64_t ranks_;
  std::vector<Geometry> geometries_;
  std::vector<std::int64_t> position_{0}, first_unit_{0}, runs_;
  std::vector<std::size_t> first_part_;
  std::vector<Part> parts_;
  std::vector<std::vector<std::size_t>> held_;
  std::array<std::uint64_t, 2> digest_{};
};

// ---- what a map is made of ----

namespace detail {

inline std::string shown(std::span<const std::int64_t> sizes) {
  std::string text = "(";
  for (std::size_t a = 0; a < sizes.size(); ++a) text += (a > 0 ? ", " : "") + std::to_string(sizes[a]);
  return text + (sizes.size() == 1 ? ",)" : ")");
}

// Rows as a Linear (out, in) or a convolution (out, in, kernel...) has them.
inline Geometry rows_of_shape(const std::vector<std::int64_t>& shape, std::int64_t numel) {
  if (shape.size() < 2) return flat(numel);
  const std::int64_t inner = std::accumulate(shape.begin() + 2, shape.end(), std::int64_t{1}, std::multiplies<>());
  return {shape[0], shape[1], inner, shape[1] * inner, inner};
}

}  // namespace detail

inline ShardMap::ShardMap(std::vector<std::vector<std::int64_t>> shapes, std::span<const Box> boxes, std::int64_t ranks,
                          std::vector<Geometry> geometries)
    : shapes_(std::move(shapes)), ranks_(ranks), geometries_(std::move(geometries)) {
  if (ranks < 1 || ranks > most_ranks)
    throw ArgumentError("ranks: " + std::to_string(ranks) + "; 1 to " + std::to_string(most_ranks) + " are accepted");
  if (!geometries_.empty() && geometries_.size() != shapes_.size())
    throw ShapeError("geometries: " + std::to_string(geometries_.size()) + " for " + std::to_string(shapes_.size()) +
                     " tensors; one is needed for each, or none");
  const bool given = !geometries_.empty();
  for (std::size_t t = 0; t < shapes_.size(); ++t) {
    if (shapes_[t].size() > Box::most_axes)
      throw ShapeError("shapes: " + name(t) + " has " + std::to_string(shapes_[t].size()) + " axes; up to " +
                       std::to_string(Box::most_axes) + " are accepted");
    if (std::any_of(shapes_[t].begin(), shapes_[t].end(), [](std::int64_t n) { return n < 0; }))
      throw ShapeError("shapes: " + name(t) + " has a negative size");
    const std::int64_t numel =
        std::accumulate(shapes_[t].begin(), shapes_[t].end(), std::int64_t{1}, std::multiplies<>());
    position_.push_back(position_.back() + numel);
    if (!given) geometries_.push_back(detail::rows_of_shape(shapes_[t], numel));
    const Geometry& g = geometries_[t];
    if (g.rows * g.row_size() != numel || g.blocks < 1 || g.rows % g.blocks != 0)
      throw ShapeError("geometries: " + std::to_string(g.rows) + " rows of " + std::to_string(g.row_size()) + " in " +
                       std::to_string(g.blocks) + " blocks do not make up " + name(t));
  }
  add(boxes);
  for (std::size_t t = 0; t < shapes_.size(); ++t) check_cover(t);
  count_units();
  take_digest(boxes);
}

inline std::string ShardMap::name(std::size_t t) const {
  return "tensor " + std::to_string(t) + " of shape " + detail::shown(shapes_[t]);
}

inline void ShardMap::add(std::span<const Box> boxes) {
  struct Held {
    Part part;
    std::int64_t rank;
    std::size_t at;  // in boxes
  };
  std::vector<Held> all;
  for (std::size_t b = 0; b < boxes.size(); ++b) {
    const Box& box = boxes[b];
    if (box.tensor < 0 || box.tensor >= static_cast<std::int64_t>(shapes_.size()))
      throw ArgumentError("boxes: one of tensor " + std::to_string(box.tensor) + ", where there are " +
                          std::to_string(shapes_.size()) + " tensors");
    if (box.rank < 0 || box.rank >= ranks_)
      throw ArgumentError("boxes: one of rank " + std::to_string(box.rank) + ", where there are " +
                          std::to_string(ranks_) + " ranks");
    const auto t = static_cast<std::size_t>(box.tensor);
    const std::vector<std::int64_t>& shape = shapes_[t];
    Part part{.tensor = box.tensor, .offset = box.offset, .size = box.size, .numel = 1};
    bool outer = true;  // has the box one element along every axis so far?
    for (std::size_t a = 0; a < shape.size(); ++a) {
      if (box.offset[a] < 0 || box.size[a] < 0 || box.offset[a] > shape[a] - box.size[a])
        throw ShapeError("boxes: rank " + std::to_string(box.rank) + " holds a box of size " +
                         detail::shown({box.size.data(), shape.size()}) + " at " +
                         detail::shown({box.offset.data(), shape.size()}) + ", which leaves " + name(t));
      part.stretch &= outer || box.size[a] == shape[a];
      outer &= box.size[a] == 1;
      part.numel *= box.size[a];
      part.first = part.first * shape[a] + box.offset[a];
    }
    std::fill(part.offset.begin() + static_cast<std::ptrdiff_t>(shape.size()), part.offset.end(), 0);
    std::fill(part.size.begin() + static_cast<std::ptrdiff_t>(shape.size()), part.size.end(), 1);
    part.rank = box.rank;
    if (part.numel > 0) all.push_back({part, box.rank, b});
  }
  const auto place = [](const Held& h) { return std::tie(h.part.tensor, h.part.first, h.part.size, h.rank, h.at); };
  std::sort(all.begin(), all.end(), [&](const Held& a, const Held& b) { return place(a) < place(b); });

  std::vector<std::pair<std::size_t, std::size_t>> of_box;  // (box, part)
  for (std::size_t i = 0; i < all.size(); ++i) {
    const Part& part = all[i].part;
    const bool same = i > 0 && !parts_.empty() && parts_.back().tensor == part.tensor &&
                      parts_.back().offset == part.offset && parts_.back().size == part.size;
    if (same && all[i - 1].rank == all[i].rank)
      throw ShapeError("boxes: rank " + std::to_string(all[i].rank) + " names the same box of " +
                       name(static_cast<std::size_t>(part.tensor)) + " twice");
    if (same)
      ++parts_.back().copies;
    else
      parts_.push_back(part);
    of_box.emplace_back(all[i].at, parts_.size() - 1);
  }
  for (std::size_t t = 0, p = 0; t <= shapes_.size(); ++t) {
    while (p < parts_.size() && parts_[p].tensor < static_cast<std::int64_t>(t)) ++p;
    first_part_.push_back(p);
  }
  held_.resize(static_cast<std::size_t>(ranks_) * shapes_.size());
  std::sort(of_box.begin(), of_box.end());
  for (const auto& [box, part] : of_box)
    held_[static_cast<std::size_t>(boxes[box].rank) * shapes_.size() + static_cast<std::size_t>(boxes[box].tensor)]
        .push_back(part);
}

inline void ShardMap::check_cover(std::size_t t) const {
  const std::span<const Part> own = parts(t);
  const auto doubled = [&](const Part& a, const Part& b) {
    throw ShapeError("boxes: ranks " + std::to_string(a.rank) + " and " + std::to_string(b.rank) +
                     " hold overlapping parts of " + name(t) +
                     " that are not the same; parts must be the same box, or have no element in common");
  };
  const bool stretches = std::ranges::all_of(own, &Part::stretch);
  std::int64_t covered = 0;
  for (std::size_t p = 0; p < own.size(); ++p) {
    if (stretches && own[p].first < covered) doubled(own[p - 1], own[p]);
    if (stretches && own[p].first > covered) break;  // what is missing is told below
    for (std::size_t q = 0; !stretches && q < p; ++q) {
      bool apart = false;
      for (std::size_t a = 0; a < shapes_[t].size(); ++a)
        apart |= own[p].offset[a] >= own[q].offset[a] + own[q].size[a] ||
                 own[q].offset[a] >= own[p].offset[a] + own[p].size[a];
      if (!apart) doubled(own[q], own[p]);
    }
    covered += own[p].numel;
  }
  if (covered == numel(t)) return;
  const std::string found = stretches ? "its elements from flat index " + std::to_string(covered) + " on"
                                      : std::to_string(numel(t) - covered) + " of its elements";
  throw ShapeError("boxes: no rank holds " + found + ", of " + name(t) +
                   "; every rank that has a part of it must name that part");
}

inline void ShardMap::count_units() {
  for (std::size_t t = 0; t < shapes_.size(); ++t) {
    const std::span<Part> own = std::span(parts_).subspan(first_part_[t], first_part_[t + 1] - first_part_[t]);
    if (std::ranges::all_of(own, &Part::stretch)) {
      for (Part& part : own) part.unit = first_unit_[t] + (&part - own.data());
      runs_.resize(runs_.size() + own.size());
    } else {
      for (Part& part : own) part.unit = first_unit_[t];
      runs_.push_back(0);
      const RunMap map = run_map(own.front());
      runs_.back() = std::accumulate(map.shape.begin(), map.shape.begin() + static_cast<std::ptrdiff_t>(map.axes),
                                     map.parts, std::multiplies<>());
    }
    first_unit_.push_back(units());
  }
}

inline void ShardMap::take_digest(std::span<const Box> boxes) {
  std::vector<std::int64_t> all{ranks_};
  for (std::size_t t = 0; t < shapes_.size(); ++t) {
    const Geometry& g = geometries_[t];
    all.insert(all.end(), {-1, g.rows, g.inputs, g.inner, g.row_stride, g.input_stride, g.blocks});
    all.insert(all.end(), shapes_[t].begin(), shapes_[t].end());
  }
  for (const Box& box : boxes) {
    all.insert(all.end(), {-2, box.tensor, box.rank});
    all.insert(all.end(), box.offset.begin(), box.offset.end());
    all.insert(all.end(), box.size.begin(), box.size.end());
  }
  digest_ = bittersweet::digest({reinterpret_cast<const char*>(all.data()), all.size() * sizeof(all[0])});
}

// ---- indices ----

inline RunMap ShardMap::run_map(const Part& part) const {
  const auto t = static_cast<std::size_t>(part.tensor);
  const std::vector<std::int64_t>& shape = shapes_[t];
  std::size_t axis = 0;  // the innermost that is split
  for (const Part& any : parts(t))
    for (std::size_t a = axis; a < shape.size(); ++a)
      if (any.size[a] != shape[a]) axis = a;
  std::vector<std::int64_t> begins;
  for (const Part& any : parts(t)) begins.push_back(any.offset[axis]);
  std::sort(begins.begin(), begins.end());
  begins.erase(std::unique(begins.begin(), begins.end()), begins.end());
  RunMap map{.length = 1,
             .parts = static_cast<std::int64_t>(begins.size()),
             .part = std::lower_bound(begins.begin(), begins.end(), part.offset[axis]) - begins.begin(),
             .axes = axis};
  for (std::size_t a = axis; a < shape.size(); ++a) map.length *= part.size[a];
  for (std::size_t a = 0; a < axis; ++a) {
    map.shape[a] = shape[a];
    map.offset[a] = part.offset[a];
    map.size[a] = part.size[a];
  }
  return map;
}

inline std::int64_t ShardMap::global_index(const Part& part, std::int64_t local) const noexcept {
  if (part.stretch) return part.first + local;
  const std::vector<std::int64_t>& shape = shapes_[static_cast<std::size_t>(part.tensor)];
  std::int64_t index = 0, stride = 1;
  for (std::size_t a = shape.size(); a-- > 0; local /= part.size[a], stride *= shape[a])
    index += (local % part.size[a] + part.offset[a]) * stride;
  return index;
}

inline std::int64_t ShardMap::local_index(const Part& part, std::int64_t global) const noexcept {
  if (part.stretch) return global >= part.first && global < part.first + part.numel ? global - part.first : -1;
  const std::vector<std::int64_t>& shape = shapes_[static_cast<std::size_t>(part.tensor)];
  std::int64_t index = 0, stride = 1;
  for (std::size_t a = shape.size(); a-- > 0; global /= shape[a], stride *= part.size[a]) {
    const std::int64_t at = global % shape[a] - part.offset[a];
    if (at < 0 || at >= part.size[a]) return -1;
    index += at * stride;
  }
  return index;
}

// ---- rows ----

// The axes along which an element moves that lies `extent` behind the first.
inline std::vector<bool> ShardMap::spanned(std::size_t t, std::int64_t extent) const {
  std::vector<bool> axes(shapes_[t].size());
  for (std::size_t a = axes.size(); a-- > 0; extent /= std::max<std::int64_t>(shapes_[t][a], 1))
    axes[a] = shapes_[t][a] > 0 && extent % shapes_[t][a] != 0;
  return axes;
}

inline bool ShardMap::whole_rows(const Part& part) const {
  const auto t = static_cast<std::size_t>(part.tensor);
  const Geometry& g = geometries_[t];
  const auto inputs = spanned(t, (g.inputs - 1) * g.input_stride), inner = spanned(t, g.inner - 1);
  for (std::size_t a = 0; a < inputs.size(); ++a)
    if ((inputs[a] || inner[a]) && part.size[a] != shapes_[t][a]) return false;
  return true;
}

inline bool ShardMap::whole_groups(const Part& part, std::int64_t of) const {
  const auto t = static_cast<std::size_t>(part.tensor);
  const Geometry& g = geometries_[t];
  const auto inputs = spanned(t, (g.inputs - 1) * g.input_stride);
  for (std::size_t a = 0; a < inputs.size(); ++a) {
    if (!inputs[a] || part.size[a] == shapes_[t][a]) continue;
    const std::int64_t end = part.offset[a] + part.size[a];
    const bool alone = std::count(inputs.begin(), inputs.end(), true) == 1 && shapes_[t][a] == g.inputs;
    if (!alone || part.offset[a] % of != 0 || (end % of != 0 && end != shapes_[t][a])) return false;
  }
  return true;
}

inline std::int64_t ShardMap::rows_among_first(const Part& part, const Geometry& own, std::int64_t rows) const {
  const Geometry& g = geometries_[static_cast<std::size_t>(part.tensor)];
  const std::int64_t block = g.rows_per_block() * g.row_size();
  std::int64_t count = 0;
  for (std::int64_t row = 0; row < own.rows; ++row) {  // their order is that of the whole
    const std::int64_t index = global_index(part, own.first_of(row)), within = index % std::max<std::int64_t>(block, 1);
    const std::int64_t in_block = g.rows_per_block() == 1          ? 0
                                  : g.row_stride >= g.input_stride ? within / g.row_stride
                                                                   : within % g.input_stride / g.row_stride;
    count += index / std::max<std::int64_t>(block, 1) * g.rows_per_block() + in_block < rows;
  }
  return count;
}

}  // namespace bittersweet
