// Asynchronous copies from global to shared memory that complete on an mbarrier (PTX ISA, "cp.async.bulk"), and the
// cache policies they carry.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace nvfp4::ptx {

// What is read once leaves the L2 first; what every thread block reads stays.
__device__ __forceinline__ uint64_t policy_evict_first() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
__device__ __forceinline__ uint64_t policy_evict_last() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

// Contiguous bytes: addresses and size are multiples of 16.
__device__ __forceinline__ void bulk_copy(uint32_t shared, const void* global, uint32_t bytes, uint32_t barrier,
                                          uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(
          shared),
      "l"(global), "r"(bytes), "r"(barrier), "l"(policy)
      : "memory");
}

// A box of a two-dimensional tensor; what lies outside the tensor arrives as zeros.
__device__ __forceinline__ void tensor_copy(uint32_t shared, const CUtensorMap& map, int32_t x, int32_t y,
                                            uint32_t barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cta.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%2, "
      "%3}], [%4], %5;" ::"r"(shared),
      "l"(&map), "r"(x), "r"(y), "r"(barrier), "l"(policy)
      : "memory");
}

}  // namespace nvfp4::ptx
