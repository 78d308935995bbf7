// Tiles whose columns several thread blocks share. Every warp leaves the sums of its part in memory; whichever warp
// comes last adds all parts in their order. Nobody waits, and the bits do not depend on who is last.
#pragma once

#include <cstdint>

#include "cuda/ptx/atomic.cuh"
#include "cuda/sm120/arguments.cuh"
#include "cuda/sm120/fragments.cuh"

namespace nvfp4::cuda::sm120 {

// True for the last warp, which then holds the total.
template <typename Tile>
__device__ __forceinline__ bool sum_parts(Accumulators<Tile>& sums, const Arguments& p, const Segments& segments,
                                          const Segment& segment, int warp, int lane) {
  constexpr int kVectors = Tile::kRowAtoms * Tile::kTokenAtoms;
  const auto part = [&](int index) {
    const int64_t slot = segments.slot(segment, index);
    return reinterpret_cast<float4*>(p.partials) + (slot * Tile::kWarps + warp) * kVectors * kWarp + lane;
  };
  float4* mine = part(segment.part);
#pragma unroll
  for (int i = 0; i < Tile::kRowAtoms; ++i) {
#pragma unroll
    for (int j = 0; j < Tile::kTokenAtoms; ++j) {
      const float (&s)[4] = sums[i][j];
      __stcg(mine + (i * Tile::kTokenAtoms + j) * kWarp, make_float4(s[0], s[1], s[2], s[3]));
    }
  }
  // The lanes' stores come before the count, and the count before the other parts' loads: one lane's atomic orders all.
  __syncwarp();
  uint32_t before = 0;
  if (lane == 0) {
    before = ptx::count_arrival(p.arrivals + int64_t{segment.tile} * Tile::kWarps + warp, segment.parts - 1u);
  }
  __syncwarp();
  if (__shfl_sync(0xFFFFFFFFu, before, 0) + 1 != segment.parts) return false;
#pragma unroll
  for (int i = 0; i < kVectors * 4; ++i) sums[i / 4 / Tile::kTokenAtoms][i / 4 % Tile::kTokenAtoms][i % 4] = 0.0f;
  // Eight loads under way at once: of several parts, where tiles are small. (Sixteen where the compiler can hold them.)
  constexpr int kChunk = kVectors < 8 ? kVectors : kVectors < 32 ? 8 : 16, kTogether = kVectors < 8 ? 8 / kChunk : 1;
#pragma unroll 1
  for (int first = 0; first < segment.parts; first += kTogether) {
#pragma unroll
    for (int begin = 0; begin < kVectors; begin += kChunk) {
      float4 values[kTogether][kChunk];
#pragma unroll
      for (int index = 0; index < kTogether; ++index) {
        const bool is_part = first + index < segment.parts;
        const float4* from = part(is_part ? first + index : first) + begin * kWarp;
#pragma unroll
        for (int i = 0; i < kChunk; ++i) {
          values[index][i] = is_part ? __ldcg(from + i * kWarp) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
      }
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        float (&s)[4] = sums[(begin + i) / Tile::kTokenAtoms][(begin + i) % Tile::kTokenAtoms];
#pragma unroll
        for (int index = 0; index < kTogether; ++index) {
          const float4& v = values[index][i];
          s[0] = ptx::add_accumulators(s[0], v.x), s[1] = ptx::add_accumulators(s[1], v.y);
          s[2] = ptx::add_accumulators(s[2], v.z), s[3] = ptx::add_accumulators(s[3], v.w);
        }
      }
    }
  }
  return true;
}

}  // namespace nvfp4::cuda::sm120
