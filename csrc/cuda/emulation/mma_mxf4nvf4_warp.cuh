// The software model in a warp of a GPU without the instruction: registers as the instruction has them, operands of
// other lanes by shuffles.
#pragma once

#include <cstdint>

#include "cuda/emulation/mma_mxf4nvf4.h"

namespace nvfp4::emulation {

// Not inlined: one copy is some thousand instructions, and a kernel has a hundred calls.
static __device__ __noinline__ float4 warp_mma(float4 c, uint4 a, uint2 b, uint32_t sfa, uint32_t sfb,
                                               Selectors selectors) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const auto of_lane = [](uint32_t word, int source) { return __shfl_sync(0xFFFFFFFFu, word, source); };
  uint32_t rows[2][8], columns[2][8], row_scales[2], column_scales[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      const int row_lane = lane / 4 * 4 + t, column_lane = 4 * (lane % 4 * 2 + half) + t;
      rows[half][t] = of_lane(half == 0 ? a.x : a.y, row_lane);
      rows[half][4 + t] = of_lane(half == 0 ? a.z : a.w, row_lane);
      columns[half][t] = of_lane(b.x, column_lane);
      columns[half][4 + t] = of_lane(b.y, column_lane);
    }
    row_scales[half] = of_lane(sfa, scale_lane_a(lane / 4, half, selectors));
    column_scales[half] = of_lane(sfb, scale_lane_b(lane % 4 * 2 + half, selectors));
  }
  return make_float4(block_scaled_dot(rows[0], columns[0], row_scales[0], column_scales[0], c.x),
                     block_scaled_dot(rows[0], columns[1], row_scales[0], column_scales[1], c.y),
                     block_scaled_dot(rows[1], columns[0], row_scales[1], column_scales[0], c.z),
                     block_scaled_dot(rows[1], columns[1], row_scales[1], column_scales[1], c.w));
}

__device__ __forceinline__ void warp_mma_m16n8k64(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                                  uint32_t sfa, uint32_t sfb, uint32_t thread_id_a,
                                                  uint32_t thread_id_b) {
  const float4 sum = warp_mma(make_float4(d[0], d[1], d[2], d[3]), make_uint4(a[0], a[1], a[2], a[3]),
                              make_uint2(b[0], b[1]), sfa, sfb, Selectors{thread_id_a, thread_id_b});
  d[0] = sum.x, d[1] = sum.y, d[2] = sum.z, d[3] = sum.w;
}

}  // namespace nvfp4::emulation
