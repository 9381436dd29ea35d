#include <cstdlib>
#include <string>

#include "bittersweet/error.hpp"
#include "cpu/isa.hpp"
#include "cpu/prefetch.hpp"
#include "cpu/x86_levels.hpp"

namespace bittersweet::cpu {
namespace {

struct Choice {
  const char* name;
  const Kernels& (*table)();
  bool runs_here;
};

// Best last.
std::vector<Choice> choices() {
  std::vector<Choice> all{{"portable", &kernels_portable, true}};
#if defined(__x86_64__)
  const X86Levels has = x86_levels();
  all.push_back({"v2", &kernels_v2, has.v2});
  all.push_back({"v3", &kernels_v3, has.v3});
  all.push_back({"v4", &kernels_v4, has.v4});
#elif defined(__aarch64__)
  all.push_back({"neon", &kernels_neon, true});
#endif
  return all;
}

const Kernels& choose() {
  const std::vector<Choice> all = choices();
  const char* const forced = std::getenv("BITTERSWEET_CPU_ISA");
  const Choice* chosen = nullptr;
  std::string usable;
  for (const Choice& choice : all) {
    if (!choice.runs_here) continue;
    usable += (usable.empty() ? "" : ", ") + std::string(choice.name);
    if (forced == nullptr || forced == std::string(choice.name)) chosen = &choice;
  }
  if (chosen == nullptr)
    throw ArgumentError("BITTERSWEET_CPU_ISA: '" + std::string(forced) + "'; this machine and build can use " + usable);
  const Kernels& table = chosen->table();
  if (table.contracts())
    throw Error("the kernels '" + std::string(table.name) +
                "' were compiled with contraction of a * b + c, so scores would differ between machines; build with "
                "-ffp-contract=off");
  return table;
}

}  // namespace

std::int64_t asked_ahead() noexcept {
#if defined(__x86_64__)
  static const bool zen = [] {
    __builtin_cpu_init();
    return static_cast<bool>(__builtin_cpu_is("amd"));
  }();
  if (zen) return 256;
#endif
  return far_ahead;
}

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

std::vector<std::string> usable_isas() {
  std::vector<std::string> names;
  for (const Choice& choice : choices())
    if (choice.runs_here) names.emplace_back(choice.name);
  return names;
}

const Kernels& kernels_of(const std::string& name) {
  for (const Choice& choice : choices())
    if (choice.runs_here && name == choice.name) return choice.table();
  throw ArgumentError("isa: '" + name + "' does not run here");
}

}  // namespace bittersweet::cpu
