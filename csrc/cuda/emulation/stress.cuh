// What makes races show in a build with NVFP4_EMULATE_SM120=disturbed: pauses at random, and stages filled with NaN
// scales once they are given back. Nothing of it exists in any other build.
#pragma once

#include <cstdint>

#include "cuda/ptx/matrix.cuh"

namespace nvfp4::emulation {

// Up to two microseconds, a quarter of the time.
__device__ __forceinline__ void pause() {
#if defined(NVFP4_SM120_DISTURBED)
  uint32_t hash = (static_cast<uint32_t>(clock64()) ^ (blockIdx.x << 10) ^ (threadIdx.x / 32)) * 0x9E3779B1u;
  hash ^= hash >> 15;
  hash *= 0x85EBCA77u;
  if (hash >> 30 == 0) __nanosleep(hash >> 8 & 0x7FFu);
#endif
}

// Every word of a stage becomes four NaN scales, before the copies that fill it again.
__device__ __forceinline__ void poison(uint32_t stage, uint32_t bytes) {
#if defined(NVFP4_SM120_DISTURBED)
  for (uint32_t offset = 0; offset < bytes; offset += 4) ptx::store_word(stage + offset, 0x7F7F7F7Fu);
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

}  // namespace nvfp4::emulation
