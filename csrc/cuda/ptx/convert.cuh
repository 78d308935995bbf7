// Conversions between float32 and the formats of NVFP4. The two e2m1 ones are native on the SM120 family; elsewhere the
// same bits come from arithmetic.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "nvfp4/formats.h"

// The instructions of the SM120 family exist in code built for sm_120a, sm_120f, sm_121a, ... but not for plain sm_120.
#if defined(__CUDA_ARCH_FAMILY_SPECIFIC__) && __CUDA_ARCH_FAMILY_SPECIFIC__ >= 1200
#define NVFP4_NATIVE_SM120 1
#elif defined(__CUDA_ARCH_SPECIFIC__) && __CUDA_ARCH_SPECIFIC__ >= 1200
#define NVFP4_NATIVE_SM120 1
#endif

namespace nvfp4::ptx {

// Two numbers to a byte of two codes, `low` in the low nibble: nearest, ties to even, saturating at 6; a NaN gives +6.
__device__ __forceinline__ uint32_t float2_to_e2m1x2(float low, float high) {
#if defined(NVFP4_NATIVE_SM120)
  uint32_t byte;
  asm("{\n .reg .b8 pair;\n cvt.rn.satfinite.e2m1x2.f32 pair, %1, %2;\n cvt.u32.u8 %0, pair;\n}"
      : "=r"(byte)
      : "f"(high), "f"(low));
  return byte;
#else
  const auto code = [](float x) {
    // Adding 2^22 times the power of two below |x| (at least 1) leaves exactly e2m1's grid in the sum: steps of a half
    // up to 2, of 1 up to 4, of 2 above. Every binade above the first has two codes more below it.
    const float clamped = fminf(fabsf(x), kE2M1Max);
    const uint32_t power = __float_as_uint(fmaxf(clamped, 1.0f)) & 0x7F800000u;
    const uint32_t magic = power + (22u << 23);
    const uint32_t steps = __float_as_uint(clamped + __uint_as_float(magic)) - magic;
    const uint32_t sign = x == x ? __float_as_uint(x) >> 28 & 8u : 0u;
    return (steps + (power >> 22) - 254u) | sign;
  };
  return code(low) | code(high) << 4;
#endif
}

// A byte of two codes to two half-precision numbers, exactly.
__device__ __forceinline__ __half2 e2m1x2_to_half2(uint32_t byte) {
  uint32_t bits;
#if defined(NVFP4_NATIVE_SM120)
  asm("{\n .reg .b8 pair;\n cvt.u8.u32 pair, %1;\n cvt.rn.f16x2.e2m1x2 %0, pair;\n}" : "=r"(bits) : "r"(byte));
#else
  // Three bits of a code at the top of a half's exponent and mantissa are the value times 2^-14, subnormals included.
  const uint32_t spread = (byte & 0xFu) | (byte & 0xF0u) << 12;
  const uint32_t small = (spread & 0x00070007u) << 9 | (spread & 0x00080008u) << 12;
  __half2 value;
  memcpy(&value, &small, sizeof(value));
  value = __hmul2(value, __float2half2_rn(16384.0f));
  memcpy(&bits, &value, sizeof(bits));
#endif
  __half2 result;
  memcpy(&result, &bits, sizeof(result));
  return result;
}

// x >= 0 or NaN to e4m3fn: nearest, ties to even, saturating at 448; NaN gives 0x7F.
__device__ __forceinline__ uint32_t float_to_e4m3(float x) {
  uint16_t pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(0.0f), "f"(x));
  return pair;
}

}  // namespace nvfp4::ptx
