// THE LIST of engines under test. A suite derived from EngineTest runs for every one of them; those that this machine
// or build cannot run are skipped by name, never silently.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "bittersweet/engine/cpu.hpp"
#include "bittersweet/engine/reference.hpp"
#include "cpu/isa.hpp"

namespace bittersweet::test {

struct EngineCase {
  std::string isa;  // "reference", or an instruction set of the CPU engine
  int threads = 1;

  bool is_reference() const { return isa == "reference"; }
  std::string name() const { return is_reference() ? isa : isa + "_threads" + std::to_string(threads); }
  bool runs_here() const {
    const std::vector<std::string> usable = cpu::usable_isas();
    return is_reference() || std::find(usable.begin(), usable.end(), isa) != usable.end();
  }
  friend std::ostream& operator<<(std::ostream& out, const EngineCase& engine) { return out << engine.name(); }
};

// Every instruction set that a build for this processor family contains.
inline std::vector<std::string> known_isas() {
#if defined(__x86_64__)
  return {"portable", "v2", "v3", "v4"};
#elif defined(__aarch64__)
  return {"portable", "neon"};
#else
  return {"portable"};
#endif
}

inline std::vector<EngineCase> fast_engines() {
  std::vector<EngineCase> all;
  for (const std::string& isa : known_isas())
    for (const int threads : {1, 3}) all.push_back({isa, threads});
  return all;
}

inline std::vector<EngineCase> engines() {
  std::vector<EngineCase> all = fast_engines();
  all.insert(all.begin(), {"reference", 1});
  return all;
}

// f(engine) with the engine that `which` names.
template <class F>
void with_engine(const EngineCase& which, F&& f) {
  if (which.is_reference()) {
    ReferenceEngine engine;
    f(engine);
  } else {
    CpuEngine engine(which.isa, which.threads);
    f(engine);
  }
}

class EngineTest : public testing::TestWithParam<EngineCase> {
 protected:
  void SetUp() override {
    if (!GetParam().runs_here()) GTEST_SKIP() << "instruction set '" << GetParam().isa << "' does not run here";
  }

  template <class F>
  void run(F&& f) const {
    with_engine(GetParam(), std::forward<F>(f));
  }
};

inline std::string engine_name(const testing::TestParamInfo<EngineCase>& info) { return info.param.name(); }

}  // namespace bittersweet::test

// `list`: engines, or fast_engines for what compares them with the reference.
#define BITTERSWEET_FOR_EVERY(list, Suite)                                                 \
  INSTANTIATE_TEST_SUITE_P(Engines, Suite, testing::ValuesIn(::bittersweet::test::list()), \
                           ::bittersweet::test::engine_name)
