// Logic of three operands, and numbers that the compiler is to know nothing of.
#pragma once

#include <cstdint>

namespace nvfp4::ptx {

// Bits of `yes` where `mask` has ones, of `no` elsewhere: one instruction, also where the compiler would take two
// because it knows the mask.
__device__ __forceinline__ uint32_t select_bits(uint32_t mask, uint32_t yes, uint32_t no) {
  uint32_t result;
  asm("lop3.b32 %0, %1, %2, %3, 0xCA;" : "=r"(result) : "r"(mask), "r"(yes), "r"(no));
  return result;
}

// Makes the values unknown: what could be computed from them before is computed where it is used.
template <typename... Numbers>
__device__ __forceinline__ void forget(Numbers&... numbers) {
  (..., [](auto& number) { asm volatile("" : "+r"(number)); }(numbers));
}

}  // namespace nvfp4::ptx
