// What headline.cu measures, section by section: models, works on them, and the goals of each.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "bittersweet/engine/engine.hpp"
#include "bittersweet/score/scorers.hpp"
#include "bittersweet/select/selectors.hpp"
#include "judge.cuh"
#include "model.cuh"

namespace bittersweet::bench {

inline constexpr std::int64_t headline_weights = 402'653'184;

// A bound in milliseconds: fixed + floor * read floor + rewrite * rewrite floor + random * the same work on dense data;
// with `per_read`, one more read floor for each read that the step reports.
struct Goal {
  double fixed = 0, floor = 0, rewrite = 0, random = 0;
  bool per_read = false;
  bool any() const { return fixed + floor + rewrite + random > 0; }
};

struct Work {
  std::string name;
  Scorer scorer;
  double sparsity = 0.5;
  bool masks = false;
  std::uint32_t zero = 0;
  Goal goal{};
  Selector selector = Exact{};
};

struct Subject {
  std::string name;
  std::int64_t weights = headline_weights;
  DType w = DType::f32, m = DType::none, v = DType::f32;
  Draw draw_w = draw_weights, draw_v = draw_squares;
  float dead = 0;
  int repeats = 15;
};

using Subjects = std::vector<std::pair<Subject, std::vector<Work>>>;

inline std::vector<Work> threshold_and_masks(double sparsity, Goal threshold, Goal masks,
                                             const Scorer& scorer = Bitter7{}) {
  return {{"threshold", scorer, sparsity, false, 0, threshold}, {"masks", scorer, sparsity, true, 0, masks}};
}

inline Subjects headline() {
  Subject subject{"f32"};
  subject.m = DType::f32;
  std::vector<Work> works = threshold_and_masks(0.5, {.floor = 1.2}, {.floor = 1.25});
  works.push_back({"w zeroed", Bitter7{}, 0.5, true, roles::weight, {.floor = 1.15, .rewrite = 1.15}});
  works.push_back({"w, m, v zeroed", Bitter7{}, 0.5, true, roles::weight | roles::exp_avg | roles::exp_avg_sq});
  return {{subject, works}};
}

inline Subjects data() {
  const Goal random{.random = 1.2}, one_more_read{.floor = 1.2, .random = 1.2};
  Subjects all{{Subject{"dense"}, threshold_and_masks(0.5, {.floor = 1.2}, {.floor = 1.25})}};
  const auto add = [&](Subject subject, double sparsity, const Goal& goal) {
    all.emplace_back(std::move(subject), threshold_and_masks(sparsity, goal, goal));
  };
  Draw zeros = draw_weights;
  zeros.share = 0.9f;
  add({.name = "90 % zeros, cut among them", .draw_w = zeros}, 0.5, random);
  add({.name = "90 % zeros, cut above them", .draw_w = zeros}, 0.95, random);
  add({.name = "90 % dead", .dead = 0.9f}, 0.95, random);
  for (const float share : {0.004f, 0.01f, 0.05f, 0.5f}) {  // at the median of the others
    Draw w = draw_weights, v = draw_squares;
    w.share = v.share = share;
    w.value = 0.0135f, v.value = 1e-9f;
    char name[48];
    std::snprintf(name, sizeof name, "%.1f %% share the median", 100.0 * static_cast<double>(share));
    add({.name = name, .draw_w = w, .draw_v = v}, 0.5, share > 0.005f ? one_more_read : random);
  }
  return all;
}

inline Subjects dtypes() {
  const Goal own{.floor = 1.4};
  Subjects all;
  all.emplace_back(Subject{.name = "magnitude, bf16", .w = DType::bf16, .v = DType::none},
                   threshold_and_masks(0.5, own, own, Magnitude{}));
  all.emplace_back(Subject{.name = "bitter7, bf16 + f32", .w = DType::bf16, .v = DType::f32},
                   threshold_and_masks(0.5, own, own));
  all.emplace_back(Subject{.name = "bitter7, bf16 + bf16", .w = DType::bf16, .v = DType::bf16},
                   threshold_and_masks(0.5, own, own));
  all.emplace_back(Subject{.name = "magnitude, f32", .v = DType::none}, threshold_and_masks(0.5, {}, {}, Magnitude{}));
  return all;
}

inline Subjects scorers() {
  Subject subject{"f32"};
  subject.m = DType::f32;
  subject.repeats = 9;
  std::vector<Work> works;
  for_each_scorer([&](const auto& scorer) {
    if constexpr (can_be_judged<std::decay_t<decltype(scorer)>>)
      works.push_back({std::string(scorer.info.name) + " masks", scorer, 0.5, true, 0, {}});
  });
  return {{subject, works}};
}

// Of magnitude, whose reads are the shortest beside what is done with a score, and of bitter7.
inline Subjects selectors() {
  Subjects all;
  for (const Scorer& scorer : {Scorer(Bitter7{}), Scorer(Magnitude{})}) {
    Subject subject{std::string(info_of(scorer).name) + ", f32"};
    if (!(info_of(scorer).reads & reads::exp_avg_sq)) subject.v = DType::none;
    std::vector<Work> works;
    const auto add = [&](const std::string& name, const Selector& selector, const Goal& goal) {
      works.push_back({name + ", threshold", scorer, 0.5, false, 0, goal, selector});
      works.push_back({name + ", masks", scorer, 0.5, true, 0, {}, selector});
    };
    add("histogram", Histogram{}, {.floor = 3.3});
    add("kthvalue", KthValue{}, {});
    add("streaming, 1e-3", Streaming{}, {.floor = 0.3, .per_read = true});
    add("streaming, exact", Streaming{.tolerance = 0}, {.floor = 0.3, .per_read = true});
    add("sampling, 2 % by line", Sampling{}, {.floor = 0.15});
    add("sampling, 2 % by element", Sampling{.by = Sampling::By::element}, {});
    all.emplace_back(subject, works);
  }
  return all;
}

inline Subjects sizes() {
  Subjects all;
  const Goal goal{.fixed = 0.08, .floor = 1.2};
  for (const std::int64_t n : {1LL << 20, 1LL << 22, 1LL << 24, 1LL << 26, 1LL << 28, 1LL << 30, 1LL << 32}) {
    Subject subject{std::to_string(n) + " weights", n};
    subject.repeats = n >= 1LL << 30 ? 7 : 15;
    all.emplace_back(subject, threshold_and_masks(0.5, goal, goal));
  }
  return all;
}

inline Subjects host() { return {{Subject{"f32"}, threshold_and_masks(0.5, {}, {})}}; }

inline const std::vector<std::pair<std::string, Subjects (*)()>> sections{
    {"headline", headline},   {"data", data},   {"dtypes", dtypes}, {"scorers", scorers},
    {"selectors", selectors}, {"sizes", sizes}, {"host", host}};

}  // namespace bittersweet::bench
