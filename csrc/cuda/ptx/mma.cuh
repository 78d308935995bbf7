// d += (a * sfa) (b * sfb): mma.sync.aligned.m16n8k64, kind mxf4nvf4, four ue4m3 scales a row and a column (PTX ISA,
// "Matrix Fragments for mma.m16n8k64" and "Block Scaling for mma.sync").
//
// The instruction exists on the SM120 family alone. Two builds put something else in its place, so that the kernels
// around it run on a Hopper GPU; neither is part of a normal library (NVFP4_EMULATE_SM120 in CMakeLists.txt):
//   NVFP4_SM120_MODEL      the published arithmetic in software (cuda/emulation), hundreds of times slower;
//   NVFP4_SM120_SURROGATE  integers at a tensor core's speed: two products of the bytes of codes as signed numbers;
//   where
//                          both selectors are zero the second is of the words of scales instead, so that whatever
//                          arrives late or wrong shows.
#pragma once

#include <cstdint>

#include "cuda/ptx/convert.cuh"

#if defined(NVFP4_SM120_MODEL)
#include "cuda/emulation/mma_mxf4nvf4_warp.cuh"
#endif

namespace nvfp4::ptx {

// a: 16 rows by 64 columns, b: 64 by 8, d: 16 by 8. kThreadA (0, 1) and kThreadB (0 to 3) say which lanes of a quad
// hold the scales of this tile's rows and columns.
template <int kThreadA, int kThreadB>
__device__ __forceinline__ void mma_m16n8k64(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                             uint32_t sfa, uint32_t sfb) {
#if defined(NVFP4_NATIVE_SM120)
  asm("mma.sync.aligned.m16n8k64.row.col.kind::mxf4nvf4.block_scale.scale_vec::4X.f32.e2m1.e2m1.f32.ue4m3 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3}, {%10}, {%11, %12}, {%13}, {%14, %15};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(sfa), "n"(0), "n"(kThreadA), "r"(sfb),
        "n"(0), "n"(kThreadB));
#elif defined(NVFP4_SM120_MODEL)
  emulation::warp_mma_m16n8k64(d, a, b, sfa, sfb, kThreadA, kThreadB);
#elif defined(NVFP4_SM120_SURROGATE)
  // The accumulators are integers in float registers; accumulator_value() below reads them.
  int sums[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) sums[i] = __float_as_int(d[i]);
  const auto add = [&](uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
        "%3};"
        : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  };
  add(a[0], a[1], a[2], a[3], b[0], b[1]);
  if constexpr (kThreadA == 0 && kThreadB == 0) {
    add(sfa, sfa, sfa, sfa, sfb, sfb);
  } else {
    add(a[0], a[1], a[2], a[3], b[0], b[1]);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) d[i] = __int_as_float(sums[i]);
#endif
}

// What an accumulator stands for.
__device__ __forceinline__ float accumulator_value(float d) {
#if defined(NVFP4_SM120_SURROGATE)
  return __int2float_rn(__float_as_int(d));
#else
  return d;
#endif
}

// The sum of two accumulators.
__device__ __forceinline__ float add_accumulators(float a, float b) {
#if defined(NVFP4_SM120_SURROGATE)
  return __int_as_float(__float_as_int(a) + __float_as_int(b));
#else
  return a + b;
#endif
}

}  // namespace nvfp4::ptx
