// Loads from memory with a hint to the caches.
#pragma once

#include <cuda_runtime.h>

namespace nvfp4::ptx {

// What nobody reads again leaves the L1 to others.
__device__ __forceinline__ uint4 load_once(const uint4* address) {
  uint4 v;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(address));
  return v;
}

}  // namespace nvfp4::ptx
