// The instruction sets that the kernels are written for, and the choice among them at run time.
//
// CMake defines NVFP4_WITH_AVX2, NVFP4_WITH_AVX512, NVFP4_WITH_AVX512VNNI, NVFP4_WITH_AVX512BF16 and NVFP4_WITH_NEON
// for the whole core when the files of that instruction set are part of the build.
#pragma once

#include <cstdint>

namespace nvfp4::cpu {

// Slowest first; of those that are compiled in and supported, the last one is the default.
enum class InstructionSet : int32_t {
  kPortable = 0,
  kAvx2 = 1,
  kAvx512 = 2,
  kAvx512Vnni = 3,
  kAvx512Bf16 = 4,
  kNeon = 5
};

inline constexpr int kInstructionSets = 6;

const char* isa_name(InstructionSet isa);
bool isa_compiled(InstructionSet isa);
bool isa_supported(InstructionSet isa);  // by this CPU and its operating system

// What every kernel call dispatches on: set_isa's choice, or the default. Reads one atomic; any thread may call it.
InstructionSet current_isa();

}  // namespace nvfp4::cpu
