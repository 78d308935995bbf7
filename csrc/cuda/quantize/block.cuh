// One block of sixteen values in one thread: loading, its scale, its codes. The numbers are those of nvfp4/formats.h
// and cpu/quantize_scalar.h, bit for bit.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/ptx/convert.cuh"
#include "nvfp4/formats.h"
#include "nvfp4/problem.h"

namespace nvfp4::cuda {

inline constexpr uint32_t kInfinityBits = 0x7F800000u;

template <typename T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::kFloat32;
};
template <>
struct DTypeOf<__half> {
  static constexpr DType value = DType::kFloat16;
};
template <>
struct DTypeOf<__nv_bfloat16> {
  static constexpr DType value = DType::kBFloat16;
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

// Rounds to T and back.
template <typename T>
__device__ __forceinline__ float round_through(float x) {
  if constexpr (sizeof(T) == 4) return x;
  return to_float(static_cast<T>(x));
}

// Sixteen values as they lie in memory.
template <typename T>
struct Block {
  uint4 words[sizeof(T)];

  // kAligned: the block begins at a multiple of 16 bytes.
  template <bool kAligned>
  __device__ __forceinline__ void load(const T* x) {
    if constexpr (kAligned) {
#pragma unroll
      for (int i = 0; i < static_cast<int>(sizeof(T)); ++i) words[i] = __ldg(reinterpret_cast<const uint4*>(x) + i);
    } else {
      T* values = reinterpret_cast<T*>(words);
#pragma unroll
      for (int i = 0; i < kGroupSize; ++i) values[i] = x[i];
    }
  }

  __device__ __forceinline__ float value(int i) const {
    const uint32_t word = (&words[0].x)[i * static_cast<int>(sizeof(T)) / 4];
    if constexpr (sizeof(T) == 4) return __uint_as_float(word);
    const uint16_t half_word = static_cast<uint16_t>(i % 2 ? word >> 16 : word);
    T result;
    memcpy(&result, &half_word, sizeof(result));
    return to_float(result);
  }

  // Bits of the largest magnitude: a NaN wins over everything, an infinity over every number.
  __device__ __forceinline__ uint32_t amax_bits() const {
    uint32_t largest = 0;
#pragma unroll
    for (int i = 0; i < kGroupSize; ++i) largest = max(largest, __float_as_uint(value(i)) & 0x7FFFFFFFu);
    return largest;
  }

  // Bits of the largest finite magnitude.
  __device__ __forceinline__ uint32_t finite_amax_bits() const {
    uint32_t largest = amax_bits();
    if (largest < kInfinityBits) return largest;
    largest = 0;
    for (int i = 0; i < kGroupSize; ++i) {
      const uint32_t bits = __float_as_uint(value(i)) & 0x7FFFFFFFu;
      if (bits < kInfinityBits) largest = max(largest, bits);
    }
    return largest;
  }
};

// x / b rounded as IEEE does, from r = 1 / b rounded so: one Newton step whose residual is exact (Markstein). Wants b
// within [2^-100, 2^100]; right wherever the quotient is not so small that the residual underflows, and then the
// quotient rounds to the same e2m1 code anyway.
__device__ __forceinline__ float divide(float x, float b, float r) {
  const float quotient = x * r;
  return fmaf(fmaf(-quotient, b, x), r, quotient);
}

// A tensor's or a row's global scale from its largest finite magnitude.
template <typename T>
__device__ __forceinline__ float global_scale_of(float amax, Scheme scheme) {
  float scale = __fdiv_rn(kScaleRange, amax);
  if (scheme == Scheme::kCompressedTensors) {
    scale = round_through<T>(round_through<T>(__fdiv_rn(1.0f, amax)) * kScaleRange);
  }
  return __float_as_uint(scale) < kInfinityBits ? scale : 1.0f;
}

// The byte of a block's scale.
template <typename T>
__device__ __forceinline__ uint32_t block_scale(uint32_t amax_bits, float global_scale, Scheme scheme) {
  float sixth = __fdiv_rn(__uint_as_float(amax_bits), kE2M1Max);
  if (scheme == Scheme::kCompressedTensors) sixth = round_through<T>(sixth);
  // One that is not positive and finite, which nobody can check without waiting for the GPU, gives NaN.
  if (!(global_scale > 0.0f) || __float_as_uint(global_scale) >= kInfinityBits) return kE4M3Nan;
  const uint32_t code = ptx::float_to_e4m3(global_scale * sixth);
  return code == 0 ? 0x20u : code;  // 0x20 is kZeroBlockScale
}

// Eight codes, the first in the lowest nibble.
template <typename T>
__device__ __forceinline__ uint32_t encode8(const Block<T>& block, int first, float step, float reciprocal) {
  uint32_t codes = 0;
#pragma unroll
  for (int i = 0; i < 8; i += 2) {
    const float low = divide(block.value(first + i), step, reciprocal);
    const float high = divide(block.value(first + i + 1), step, reciprocal);
    codes |= ptx::float2_to_e2m1x2(low, high) << 4 * i;
  }
  return codes;
}

// The same for blocks with NaN or infinities, with steps beyond divide's range, and for the scheme that has no -0.
template <typename T>
__device__ __noinline__ uint2 encode_rare(Block<T> block, float step, Scheme scheme) {
  uint32_t codes[2] = {0, 0};
  for (int i = 0; i < kGroupSize; ++i) {
    const float quotient = __fdiv_rn(block.value(i), step);
    uint32_t code = float_to_e2m1(quotient);
    if (scheme == Scheme::kCompressedTensors && quotient == 0.0f) code = 0;
    codes[i / 8] |= code << 4 * (i % 8);
  }
  return make_uint2(codes[0], codes[1]);
}

template <typename T>
__device__ __forceinline__ uint2 block_codes(const Block<T>& block, uint32_t amax_bits, uint32_t scale_byte,
                                             float global_scale, Scheme scheme) {
  const float step = __fdiv_rn(e4m3_to_float(static_cast<uint8_t>(scale_byte)), global_scale);
  const bool usual = amax_bits < kInfinityBits && step >= 0x1p-100f && step <= 0x1p100f && scheme == Scheme::kNvfp4;
  if (!usual) return encode_rare(block, step, scheme);
  const float reciprocal = __frcp_rn(step);
  return make_uint2(encode8(block, 0, step, reciprocal), encode8(block, 8, step, reciprocal));
}

}  // namespace nvfp4::cuda
