// One block of sixteen values in one thread: loading, its scale, its codes. The numbers are those of nvfp4/formats.h
// and cpu/quantize_scalar.h, bit for bit.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/divide.cuh"
#include "cuda/ptx/convert.cuh"
#include "cuda/ptx/load.cuh"
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

template <typename Pair>
__device__ __forceinline__ Pair pair_of(uint32_t bits) {
  Pair pair;
  memcpy(&pair, &bits, sizeof(pair));
  return pair;
}
template <typename Pair>
__device__ __forceinline__ uint32_t bits_of(Pair pair) {
  uint32_t bits;
  memcpy(&bits, &pair, sizeof(bits));
  return bits;
}

// Rounds to T and back.
template <typename T>
__device__ __forceinline__ float round_through(float x) {
  if constexpr (sizeof(T) == 4) return x;
  return to_float(static_cast<T>(x));
}

// Pairs of 16-bit numbers: the larger magnitudes, under signs that mean nothing; a NaN wins.
__device__ __forceinline__ uint32_t larger_magnitudes(uint32_t a, uint32_t b, __half) {
  return ptx::larger_magnitudes_f16x2(a, b);
}
__device__ __forceinline__ uint32_t larger_magnitudes(uint32_t a, uint32_t b, __nv_bfloat16) {
  return ptx::larger_magnitudes_bf16x2(a, b);
}
// All ones in the halves where a >= b.
__device__ __forceinline__ uint32_t at_least(uint32_t a, uint32_t b, __half) {
  return __hge2_mask(pair_of<__half2>(a), pair_of<__half2>(b));
}
__device__ __forceinline__ uint32_t at_least(uint32_t a, uint32_t b, __nv_bfloat16) {
  return __hge2_mask(pair_of<__nv_bfloat162>(a), pair_of<__nv_bfloat162>(b));
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
      for (int i = 0; i < static_cast<int>(sizeof(T)); ++i) {
        words[i] = ptx::load_once(reinterpret_cast<const uint4*>(x) + i);
      }
    } else {
      T* values = reinterpret_cast<T*>(words);
#pragma unroll
      for (int i = 0; i < kGroupSize; ++i) values[i] = x[i];
    }
  }

  __device__ __forceinline__ uint32_t word(int i) const { return (&words[0].x)[i]; }

  // Every value takes the place of the one before it; the last becomes zero.
  __device__ __forceinline__ void drop_first() {
    uint32_t* all = &words[0].x;
    constexpr int kWords = static_cast<int>(sizeof(T)) * 4;
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      const uint32_t next = i + 1 < kWords ? all[i + 1] : 0;
      all[i] = sizeof(T) == 4 ? next : __funnelshift_r(all[i], next, 16);
    }
  }

  __device__ __forceinline__ float value(int i) const {
    if constexpr (sizeof(T) == 4) {
      return __uint_as_float(word(i));
    } else {
      const auto half_word = static_cast<uint16_t>(i % 2 ? word(i / 2) >> 16 : word(i / 2));
      T result;
      memcpy(&result, &half_word, sizeof(result));
      return to_float(result);
    }
  }

  // Bits of the largest magnitude as a float32: a NaN wins over everything, an infinity over every number.
  __device__ __forceinline__ uint32_t amax_bits() const {
    if constexpr (sizeof(T) == 4) {
      uint32_t largest = 0;
#pragma unroll
      for (int i = 0; i < kGroupSize; ++i) largest = max(largest, word(i) & 0x7FFFFFFFu);
      return largest;
    } else {
      uint32_t pair = word(0);
#pragma unroll
      for (int i = 1; i < kGroupSize / 2; ++i) pair = larger_magnitudes(pair, word(i), T());
      pair = larger_magnitudes(pair, pair >> 16, T());
      const auto half_word = static_cast<uint16_t>(pair & 0x7FFFu);
      T result;
      memcpy(&result, &half_word, sizeof(result));
      return __float_as_uint(to_float(result));
    }
  }

  // Bits of the largest finite magnitude. Unrolled although it is rarely needed: indexed at run time, the block would
  // have to lie in memory.
  __device__ __forceinline__ uint32_t finite_amax_bits() const {
    uint32_t largest = amax_bits();
    if (largest < kInfinityBits) return largest;
    largest = 0;
#pragma unroll
    for (int i = 0; i < kGroupSize; ++i) {
      const uint32_t bits = __float_as_uint(value(i)) & 0x7FFFFFFFu;
      largest = max(largest, bits < kInfinityBits ? bits : 0u);
    }
    return largest;
  }
};

// A tensor's or a row's global scale from its largest finite magnitude.
template <typename T>
__device__ __forceinline__ float global_scale_of(float amax, Scheme scheme) {
  float scale = divide_any(kScaleRange, amax);
  if (scheme == Scheme::kCompressedTensors) {
    scale = round_through<T>(round_through<T>(divide_any(1.0f, amax)) * kScaleRange);
  }
  return __float_as_uint(scale) < kInfinityBits ? scale : 1.0f;
}

// The byte of a block's scale.
template <typename T>
__device__ __forceinline__ uint32_t block_scale(uint32_t amax_bits, float global_scale, Scheme scheme) {
  const float amax = __uint_as_float(amax_bits);
  float sixth =
      amax >= 0x1p-90f && amax <= 0x1p120f ? divide(amax, kE2M1Max, 1.0f / kE2M1Max) : divide_any(amax, kE2M1Max);
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
    // Of magnitudes, since the division's residual loses the sign of a zero.
    const float x[2] = {block.value(first + i), block.value(first + i + 1)};
    const float low = copysignf(divide(fabsf(x[0]), step, reciprocal), x[0]);
    const float high = copysignf(divide(fabsf(x[1]), step, reciprocal), x[1]);
    codes |= ptx::float2_to_e2m1x2(low, high) << 4 * i;
  }
  return codes;
}

// For 16-bit numbers where e2m1 is not native: the least magnitude of every code, in the numbers' own format, and each
// code found by three comparisons of pairs. Exact because rounding is monotonic: the quotient of a number and the step
// rounds to a code or above if and only if the number is at least this large.
template <typename T>
struct Thresholds {
  uint32_t least[8];  // twice in each word; [0] is unused

  __device__ __forceinline__ Thresholds(float step, float reciprocal) {
    // The nearest number to step * tie reaches the code, or else the next one does: others are too far away for the
    // rounding of the quotient to matter. An exact tie goes to the even code.
    const auto threshold = [&](float tie, bool even) {
      const T nearest = static_cast<T>(step * tie);
      const float quotient = divide(to_float(nearest), step, reciprocal);
      uint16_t bits;
      memcpy(&bits, &nearest, sizeof(bits));
      return static_cast<uint32_t>(bits) + ((even ? quotient >= tie : quotient > tie) ? 0u : 1u);
    };
    constexpr uint32_t kTwice = sizeof(T) == 2 && DTypeOf<T>::value == DType::kBFloat16 ? 0x80u : 0x400u;
    const uint32_t at1 = threshold(0.25f, false), at2 = threshold(0.75f, true);
    const uint32_t at3 = threshold(1.25f, false), at4 = threshold(1.75f, true);
    const uint32_t all[8] = {0, at1, at2, at3, at4, at3 + kTwice, at4 + kTwice, at3 + 2 * kTwice};
#pragma unroll
    for (int i = 0; i < 8; ++i) least[i] = __byte_perm(all[i], all[i], 0x1010);
  }

  // Codes of a pair, in the low four bits of each half.
  __device__ __forceinline__ uint32_t codes(uint32_t pair) const {
    const auto select = [](uint32_t mask, uint32_t yes, uint32_t no) { return (mask & yes) | (~mask & no); };
    const uint32_t magnitudes = pair & 0x7FFF7FFFu;
    const uint32_t four = at_least(magnitudes, least[4], T());
    const uint32_t two = at_least(magnitudes, select(four, least[6], least[2]), T());
    const uint32_t odd = select(four, select(two, least[7], least[5]), select(two, least[3], least[1]));
    const uint32_t one = at_least(magnitudes, odd, T());
    return (four & 0x00040004u) | (two & 0x00020002u) | (one & 0x00010001u) | (pair >> 12 & 0x00080008u);
  }
};

template <typename T>
__device__ __forceinline__ uint32_t encode8(const Block<T>& block, int first, const Thresholds<T>& thresholds) {
  uint32_t bytes[2];  // of pairs 0, 1 and of pairs 2, 3: the codes of even columns below those of odd ones
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t pair = thresholds.codes(block.word(first / 2 + 2 * i));
    bytes[i] = pair + (thresholds.codes(block.word(first / 2 + 2 * i + 1)) << 8);
  }
  return __byte_perm(bytes[0], bytes[1], 0x5410) + (__byte_perm(bytes[0], bytes[1], 0x7632) << 4);
}

// Whether the thresholds of this step, and twice and four times them, are normal numbers of the format.
__device__ __forceinline__ bool has_thresholds(float step, __half) { return step >= 0x1p-11f && step <= 0x1p12f; }
__device__ __forceinline__ bool has_thresholds(float step, __nv_bfloat16) { return true; }

// The same for a number of a block with NaN or infinities, or with a step beyond divide's range, and for the scheme
// that has no -0.
__device__ __forceinline__ uint32_t encode_rare(float x, float step, Scheme scheme) {
  const float quotient = divide_any(x, step);
  return scheme == Scheme::kCompressedTensors && quotient == 0.0f ? 0u : float_to_e2m1(quotient);
}

// What codes are multiples of.
__device__ __forceinline__ float step_of(uint32_t scale_byte, float global_scale) {
  const float scale = e4m3_to_float(static_cast<uint8_t>(scale_byte));
  return global_scale >= 0x1p-60f && global_scale <= 0x1p60f
             ? divide(scale, global_scale, reciprocal_in_range(global_scale))
             : divide_any(scale, global_scale);
}

__device__ __forceinline__ bool is_usual(uint32_t amax_bits, float step, Scheme scheme) {
  return amax_bits < kInfinityBits && step >= 0x1p-100f && step <= 0x1p100f && scheme == Scheme::kNvfp4;
}

template <typename T>
__device__ __forceinline__ uint2 encode_usual(const Block<T>& block, float step) {
  const float reciprocal = reciprocal_in_range(step);
#if !defined(NVFP4_NATIVE_SM120)
  if constexpr (sizeof(T) == 2) {
    if (has_thresholds(step, T())) {
      const Thresholds<T> thresholds(step, reciprocal);
      return make_uint2(encode8(block, 0, thresholds), encode8(block, 8, thresholds));
    }
  }
#endif
  return make_uint2(encode8(block, 0, step, reciprocal), encode8(block, 8, step, reciprocal));
}

template <typename T>
__device__ __forceinline__ uint2 block_codes(const Block<T>& block, uint32_t amax_bits, uint32_t scale_byte,
                                             float global_scale, Scheme scheme) {
  const float step = step_of(scale_byte, global_scale);
  if (is_usual(amax_bits, step, scheme)) return encode_usual(block, step);
  // Registers cannot be indexed, so in this loop the block moves past its first value.
  Block<T> rest = block;
  uint2 codes = make_uint2(0, 0);
#pragma unroll 1
  for (int i = 0; i < kGroupSize; ++i) {
    codes.x = codes.x >> 4 | codes.y << 28;
    codes.y = codes.y >> 4 | encode_rare(rest.value(0), step, scheme) << 28;
    rest.drop_first();
  }
  return codes;
}

}  // namespace nvfp4::cuda
