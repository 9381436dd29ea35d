#include <cstdlib>
#include <cstring>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "bittersweet/error.hpp"
#include "cpu/kernels.hpp"
#include "cpu/strip_kernels.hpp"
#include "cpu/x86_levels.hpp"

namespace bittersweet::cpu {
namespace {

struct Choice {
  const char* name;
  const StripKernels& (*table)();
  const char* within;  // the instruction set of isa.cpp that has all it needs; null: none has
  bool runs_here;
};

#if defined(__x86_64__)
// Whether there is AMX for bf16, and the system lets this process have it: it must be asked for.
bool has_amx() {
#if defined(__linux__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned bf16 = 1u << 22, tile = 1u << 24;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & bf16) == 0 || (d & tile) == 0) return false;
  constexpr long request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}
#endif

// Best last. v2 and NEON have nothing for these kernels that the portable loop lacks.
std::vector<Choice> choices() {
  std::vector<Choice> all{{"portable", &strip_kernels_portable, "portable", true}};
#if defined(__x86_64__)
  const X86Levels has = x86_levels();
  all.push_back({"v3", &strip_kernels_v3, "v3", has.v3});
  all.push_back({"v4", &strip_kernels_v4, "v4", has.v4});
  const bool vbmi2 = has.v4 && __builtin_cpu_supports("avx512vbmi2");
  all.push_back({"v4_vbmi2", &strip_kernels_v4_vbmi2, nullptr, vbmi2});
  const bool amd = vbmi2 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_is("amd");
  all.push_back({"v4_amd", &strip_kernels_v4_amd, nullptr, amd});
  all.push_back({"amx", &strip_kernels_amx, nullptr, vbmi2 && has_amx()});
#endif
  return all;
}

const StripKernels& choose() {
  const char* const forced = std::getenv("BITTERSWEET_CPU_ISA");
  const std::string most = kernels().name;  // refuses a name that does not run here
  const StripKernels* best = nullptr;
  for (const Choice& choice : choices()) {
    if (!choice.runs_here || (forced != nullptr && choice.within == nullptr)) continue;
    best = &choice.table();
    if (forced == nullptr) continue;
    if (most == choice.within || (most == "v2" && std::strcmp(choice.name, "portable") == 0)) break;
  }
  return *best;
}

}  // namespace

const StripKernels& strip_kernels() {
  static const StripKernels& chosen = choose();
  return chosen;
}

std::vector<std::string> usable_strip_isas() {
  std::vector<std::string> names;
  for (const Choice& choice : choices())
    if (choice.runs_here) names.emplace_back(choice.name);
  return names;
}

const StripKernels& strip_kernels_of(const std::string& name) {
  for (const Choice& choice : choices())
    if (choice.runs_here && name == choice.name) return choice.table();
  throw ArgumentError("isa: '" + name + "' does not run here");
}

}  // namespace bittersweet::cpu
