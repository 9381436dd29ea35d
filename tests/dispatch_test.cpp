// The instruction set that BITTERSWEET_CPU_ISA names is the one in use, a name that is unknown or does not run here is
// an error, and no two of the kernels' tables share code. The choice is made once a process: each case runs in its own.
#include <cstdlib>
#include <iostream>
#include <set>

#include "bittersweet/error.hpp"
#include "bittersweet/prune.hpp"
#include "support/engines.hpp"

namespace bittersweet::test {
namespace {

using testing::ExitedWithCode;

// What a fresh process with this setting (null: none) reports, on its standard error.
[[noreturn]] void report_isa(const char* setting) {
  if (setting)
    setenv("BITTERSWEET_CPU_ISA", setting, 1);
  else
    unsetenv("BITTERSWEET_CPU_ISA");
  try {
    const std::string isa = build_info().isa;
    const bool everywhere = isa == CpuEngine().isa() && isa == cpu::kernels().name &&
                            &cpu::kernels() == &cpu::kernels_of(isa) && !cpu::kernels().contracts();
    std::cerr << "in use: " << isa << (everywhere ? "" : ", but not everywhere") << "\n";
    std::exit(0);
  } catch (const ArgumentError& error) {
    std::cerr << "refused: " << error.what() << "\n";
    std::exit(3);
  }
}

class DispatchDeathTest : public testing::Test {
 protected:
  void SetUp() override { testing::GTEST_FLAG(death_test_style) = "threadsafe"; }
};

TEST_F(DispatchDeathTest, TheForcedIsaIsInUse) {
  for (const std::string& isa : cpu::usable_isas())
    EXPECT_EXIT(report_isa(isa.c_str()), ExitedWithCode(0), "^in use: " + isa + "\n$");
}

TEST_F(DispatchDeathTest, TheBestByDefault) {
  EXPECT_EXIT(report_isa(nullptr), ExitedWithCode(0), "^in use: " + cpu::usable_isas().back() + "\n$");
}

TEST_F(DispatchDeathTest, AnUnknownNameIsAnErrorThatListsTheKnown) {
  std::string listed;
  for (const std::string& isa : cpu::usable_isas()) listed += (listed.empty() ? "" : ", ") + isa;
  for (const char* wrong : {"avx9000", "V3", "v33", " v2"})
    EXPECT_EXIT(report_isa(wrong), ExitedWithCode(3), std::string("BITTERSWEET_CPU_ISA: '") + wrong + "'.*" + listed);
}

TEST_F(DispatchDeathTest, AKnownNameThatDoesNotRunHereIsAnError) {
  const std::vector<std::string> usable = cpu::usable_isas();
  bool tried = false;
  for (const std::string isa : {"v2", "v3", "v4", "neon"}) {
    if (std::find(usable.begin(), usable.end(), isa) != usable.end()) continue;
    EXPECT_EXIT(report_isa(isa.c_str()), ExitedWithCode(3), "BITTERSWEET_CPU_ISA: '" + isa + "'");
    EXPECT_THROW(CpuEngine{isa}, ArgumentError);
    EXPECT_THROW((CpuEngine{isa, 2}), ArgumentError);
    tried = true;
  }
  ASSERT_TRUE(tried) << "no processor runs both x86 and NEON kernels";
}

TEST_F(DispatchDeathTest, NumThreadsComesFromTheEnvironment) {
  const auto report_threads = [](const char* setting) {
    setenv("BITTERSWEET_NUM_THREADS", setting, 1);
    std::cerr << "threads: " << num_threads() << "\n";
    std::exit(0);
  };
  EXPECT_EXIT(report_threads("7"), ExitedWithCode(0), "^threads: 7\n$");
  EXPECT_EXIT(report_threads("0"), ExitedWithCode(0), "^threads: [1-9][0-9]*\n$");
}

TEST(Dispatch, TheListOfEnginesUnderTestIsComplete) {
  const std::vector<std::string> known = known_isas();
  for (const std::string& isa : cpu::usable_isas())
    EXPECT_NE(std::find(known.begin(), known.end(), isa), known.end()) << isa << " is not tested";
  EXPECT_EQ(cpu::usable_isas().front(), "portable");
  EXPECT_EQ(build_info().isa_available, cpu::usable_isas());
}

TEST(Dispatch, EveryIsaHasItsOwnKernels) {
  std::set<const void*> functions;
  std::size_t expected = 0;
  const auto add = [&](auto* function) {
    ASSERT_NE(function, nullptr);
    functions.insert(reinterpret_cast<const void*>(function));
    ++expected;
  };
  for (const std::string& isa : cpu::usable_isas()) {
    const cpu::Kernels& kernels = cpu::kernels_of(isa);
    EXPECT_EQ(isa, kernels.name);
    EXPECT_FALSE(kernels.contracts()) << isa;
    for (std::size_t scorer = 0; scorer < cpu::scorer_count; ++scorer)
      for (std::size_t stored = 0; stored < cpu::stored_count; ++stored) {
        add(kernels.score[scorer][stored]);
        add(kernels.bracket[scorer][stored]);
        add(kernels.histogram[scorer][stored]);
        add(kernels.moments[scorer][stored]);
        add(kernels.count_cuts[scorer][stored]);
        add(kernels.read_rows[scorer][stored]);
        add(kernels.split_columns[scorer][stored]);
        add(kernels.drop_lowest_of_few[scorer][stored]);
        add(kernels.drop_lowest_of_four[scorer][stored]);
      }
    add(kernels.from_f16);
    add(kernels.from_bf16);
    add(kernels.uniform);
    add(kernels.rank_listed);
    add(kernels.compare_listed);
    add(kernels.prune_listed);
    add(kernels.drop_lowest_of_row);
    add(kernels.bury);
    add(kernels.drop_lowest_of_groups);
    add(kernels.turn_groups);
    add(kernels.drop_lowest_of_turned);
    add(kernels.lower_halves);
    add(kernels.turn_halves);
    add(kernels.drop_lowest_across);
    add(kernels.write_mask);
    add(kernels.apply_mask);
    add(kernels.popcount);
  }
  EXPECT_EQ(functions.size(), expected) << "instruction sets share code";
}

}  // namespace
}  // namespace bittersweet::test
