#include "isa.h"

#include <atomic>
#include <string>
#include <vector>

#include "nvfp4/cpu.h"
#include "nvfp4/errors.h"

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace nvfp4::cpu {
namespace {

constexpr int kDefault = -1;
std::atomic<int> chosen{kDefault};

InstructionSet fastest() {
  for (int i = kInstructionSets - 1; i > 0; --i) {
    const auto isa = static_cast<InstructionSet>(i);
    if (isa_compiled(isa) && isa_supported(isa)) return isa;
  }
  return InstructionSet::kPortable;
}

std::string usable_names() {
  std::string names;
  for (const Isa& isa : isas()) {
    if (isa.compiled && isa.supported) names += (names.empty() ? "" : ", ") + isa.name;
  }
  return names;
}

}  // namespace

const char* isa_name(InstructionSet isa) {
  switch (isa) {
    case InstructionSet::kPortable:
      return "portable";
    case InstructionSet::kAvx2:
      return "avx2";
    case InstructionSet::kAvx512:
      return "avx512";
    case InstructionSet::kAvx512Vnni:
      return "avx512vnni";
    case InstructionSet::kAvx512Bf16:
      return "avx512bf16";
    case InstructionSet::kNeon:
      return "neon";
  }
  return "unknown";
}

bool isa_compiled(InstructionSet isa) {
  switch (isa) {
    case InstructionSet::kPortable:
      return true;
    case InstructionSet::kAvx2:
#if defined(NVFP4_WITH_AVX2)
      return true;
#else
      return false;
#endif
    case InstructionSet::kAvx512:
#if defined(NVFP4_WITH_AVX512)
      return true;
#else
      return false;
#endif
    case InstructionSet::kAvx512Vnni:
#if defined(NVFP4_WITH_AVX512VNNI)
      return true;
#else
      return false;
#endif
    case InstructionSet::kAvx512Bf16:
#if defined(NVFP4_WITH_AVX512BF16)
      return true;
#else
      return false;
#endif
    case InstructionSet::kNeon:
#if defined(NVFP4_WITH_NEON)
      return true;
#else
      return false;
#endif
  }
  return false;
}

bool isa_supported(InstructionSet isa) {
#if defined(__x86_64__)
  // These builtins also ask the operating system (xgetbv) whether it saves the wide registers.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
  const bool bf16 = vnni && __builtin_cpu_supports("avx512bf16");
  const bool neon = false;
#elif defined(__aarch64__) && defined(__linux__)
  constexpr unsigned long kAsimdHp = 1ul << 10;  // HWCAP_ASIMDHP: half-precision arithmetic
  constexpr unsigned long kAsimdDp = 1ul << 20;  // HWCAP_ASIMDDP: the 8-bit dot product
  const unsigned long hwcap = getauxval(AT_HWCAP);
  const bool avx2 = false, avx512 = false, vnni = false, bf16 = false;
  const bool neon = (hwcap & kAsimdHp) && (hwcap & kAsimdDp);
#elif defined(__aarch64__) && defined(__APPLE__)
  const bool avx2 = false, avx512 = false, vnni = false, bf16 = false,
             neon = true;  // every Apple silicon Mac has the dot product
#else
  const bool avx2 = false, avx512 = false, vnni = false, bf16 = false, neon = false;
#endif
  switch (isa) {
    case InstructionSet::kPortable:
      return true;
    case InstructionSet::kAvx2:
      return avx2;
    case InstructionSet::kAvx512:
      return avx512;
    case InstructionSet::kAvx512Vnni:
      return vnni;
    case InstructionSet::kAvx512Bf16:
      return bf16;
    case InstructionSet::kNeon:
      return neon;
  }
  return false;
}

InstructionSet current_isa() {
  const int choice = chosen.load(std::memory_order_relaxed);
  if (choice != kDefault) return static_cast<InstructionSet>(choice);
  static const InstructionSet best = fastest();
  return best;
}

std::vector<Isa> isas() {
  std::vector<Isa> all;
  for (int i = 0; i < kInstructionSets; ++i) {
    const auto isa = static_cast<InstructionSet>(i);
    all.push_back({isa_name(isa), isa_compiled(isa), isa_supported(isa)});
  }
  return all;
}

std::string isa() { return isa_name(current_isa()); }

void set_isa(const std::string& name) {
  if (name.empty()) {
    chosen.store(kDefault, std::memory_order_relaxed);
    return;
  }
  for (int i = 0; i < kInstructionSets; ++i) {
    const auto isa = static_cast<InstructionSet>(i);
    if (name != isa_name(isa)) continue;
    check(isa_compiled(isa), "CPU instruction set: got ", name,
          ", which this build leaves out; choose one of: ", usable_names());
    check(isa_supported(isa), "CPU instruction set: got ", name,
          ", which this CPU cannot run; choose one of: ", usable_names());
    chosen.store(i, std::memory_order_relaxed);
    return;
  }
  check(false, "CPU instruction set: got ", name,
        ", wanted portable, avx2, avx512, avx512vnni, avx512bf16 or neon; usable here: ", usable_names());
}

}  // namespace nvfp4::cpu
