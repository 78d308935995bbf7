// Counting between thread blocks.
#pragma once

#include <cstdint>

namespace nvfp4::ptx {

// Adds one, or goes back to zero from `last`; returns what was there. What this thread and those it has synchronised
// with wrote before is seen by whoever counts later.
__device__ __forceinline__ uint32_t count_arrival(uint32_t* counter, uint32_t last) {
  uint32_t before;
  asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;" : "=r"(before) : "l"(counter), "r"(last) : "memory");
  return before;
}

}  // namespace nvfp4::ptx
