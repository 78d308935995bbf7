// The ring of stages between the fetching warp and the others.
#pragma once

#include <cstdint>

#include "cuda/ptx/mbarrier.cuh"
#include "cuda/sm120/tile.cuh"

namespace nvfp4::cuda::sm120 {

// The stage in use and the parity of its round. A stage's barriers lie in it, so one address says everything.
template <typename Tile>
struct Pipeline {
  uint32_t base, stage, parity = 0;

  __device__ __forceinline__ explicit Pipeline(uint32_t base) : base(base), stage(base) {}

  // Full: every byte of the stage has arrived. Empty: every warp has read it.
  __device__ __forceinline__ uint32_t full() const { return stage + Tile::kFullBarrier; }
  __device__ __forceinline__ uint32_t empty() const { return stage + Tile::kEmptyBarrier; }

  // On to the next stage; returns how far it is.
  __device__ __forceinline__ uint32_t advance() {
    const bool last = stage == base + (Tile::kStages - 1) * Tile::kStageBytes;
    const uint32_t bytes = last ? -(Tile::kStages - 1) * Tile::kStageBytes : Tile::kStageBytes;
    if (last) parity ^= 1;
    stage += bytes;
    return bytes;
  }

  __device__ __forceinline__ void init() const {
    for (int i = 0; i < Tile::kStages; ++i) {
      ptx::mbarrier_init(base + i * Tile::kStageBytes + Tile::kFullBarrier, 1);
      ptx::mbarrier_init(base + i * Tile::kStageBytes + Tile::kEmptyBarrier, Tile::kWarps);
    }
    ptx::fence_barrier_init();
  }
};

}  // namespace nvfp4::cuda::sm120
