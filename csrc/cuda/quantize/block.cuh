// One block of sixteen values in one thread: loading, its scale, its codes. The numbers are those of nvfp4/formats.h
// and cpu/quantize_scalar.h, bit for bit.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/divide.cuh"
#include "cuda/ptx/bits.cuh"
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

// Pairs of 16-bit numbers.
__device__ __forceinline__ uint32_t magnitudes_of(uint32_t pair, __half) {
  return bits_of(__habs2(pair_of<__half2>(pair)));
}
__device__ __forceinline__ uint32_t magnitudes_of(uint32_t pair, __nv_bfloat16) {
  return bits_of(__habs2(pair_of<__nv_bfloat162>(pair)));
}
__device__ __forceinline__ uint32_t twice(uint32_t pair, __half) {
  return bits_of(__hmul2(pair_of<__half2>(pair), __float2half2_rn(2.0f)));
}
__device__ __forceinline__ uint32_t twice(uint32_t pair, __nv_bfloat16) {
  return bits_of(__hmul2(pair_of<__nv_bfloat162>(pair), __float2bfloat162_rn(2.0f)));
}
__device__ __forceinline__ uint32_t pack_pair(float low, float high, __half) {
  return bits_of(__floats2half2_rn(low, high));
}
__device__ __forceinline__ uint32_t pack_pair(float low, float high, __nv_bfloat16) {
  return bits_of(__floats2bfloat162_rn(low, high));
}
__device__ __forceinline__ float low_of(uint32_t pair, __half) { return __low2float(pair_of<__half2>(pair)); }
__device__ __forceinline__ float high_of(uint32_t pair, __half) { return __high2float(pair_of<__half2>(pair)); }
__device__ __forceinline__ float low_of(uint32_t pair, __nv_bfloat16) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_of(uint32_t pair, __nv_bfloat16) { return __uint_as_float(pair & 0xFFFF0000u); }
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
      // Magnitudes are ordered as integers are, three of which one instruction compares; encoding wants them too.
      uint32_t pair = magnitudes_of(word(0), T());
#pragma unroll
      for (int i = 1; i + 1 < kGroupSize / 2; i += 2) {
        pair = __vimax3_u16x2(pair, magnitudes_of(word(i), T()), magnitudes_of(word(i + 1), T()));
      }
      pair = __vmaxu2(pair, magnitudes_of(word(kGroupSize / 2 - 1), T()));
      return max(__float_as_uint(low_of(pair, T())), __float_as_uint(high_of(pair, T())));
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

// A block's scale: its byte, and what codes are multiples of.
struct BlockScale {
  uint32_t byte;
  float step;
};

// Whether all of a block's quotients are right by divide. Those too small for it are below the least scale or the least
// code, and none overflows: where the scale saturates at 448, quotients reach 2^76 * 2^60 / 448.
__device__ __forceinline__ bool is_usual(uint32_t amax_bits, float global_scale, Scheme scheme) {
  constexpr uint32_t kMostBits = (127 + 76) << 23;  // of 2^76
  return amax_bits <= kMostBits && global_scale >= 0x1p-60f && global_scale <= 0x1p60f && scheme == Scheme::kNvfp4;
}

__device__ __forceinline__ BlockScale usual_scale(uint32_t amax_bits, float global_scale) {
  const float sixth = divide(__uint_as_float(amax_bits), kE2M1Max, 1.0f / kE2M1Max);
  const uint32_t code = ptx::float_to_e4m3(global_scale * sixth);
  const uint32_t byte = code == 0 ? kZeroBlockScaleCode : code;
  // The four bits of an e4m3 exponent are the low ones of a float32's.
  const float scale = __uint_as_float(byte << 20) * 0x1p120f;
  return {byte, divide(scale, global_scale, reciprocal_in_range(global_scale))};
}

template <typename T>
__device__ __forceinline__ BlockScale rare_scale(uint32_t amax_bits, float global_scale, Scheme scheme) {
  float sixth = divide_any(__uint_as_float(amax_bits), kE2M1Max);
  if (scheme == Scheme::kCompressedTensors) sixth = round_through<T>(sixth);
  uint32_t byte = kE4M3Nan;
  // One that is not positive and finite, which nobody can check without waiting for the GPU, gives NaN.
  if (global_scale > 0.0f && __float_as_uint(global_scale) < kInfinityBits) {
    const uint32_t code = ptx::float_to_e4m3(global_scale * sixth);
    byte = code == 0 ? kZeroBlockScaleCode : code;
  }
  return {byte, divide_any(e4m3_to_float(static_cast<uint8_t>(byte)), global_scale)};
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

  __device__ __forceinline__ explicit Thresholds(float step) {
    // The nearest numbers to the first four ties, twice each.
    const auto nearest = [&](float tie) { return pack_pair(tie * step, tie * step, T()); };
    const uint32_t near1 = nearest(0.25f), near2 = nearest(0.75f), near3 = nearest(1.25f), near4 = nearest(1.75f);
    // Half of what numbers from 1 to 2 are apart, times the step: so far from tie * step a number's quotient still
    // rounds to the tie itself, which goes to the even code.
    const float half_unit = 0x1p-24f * step;
    const float rest1 = fmaf(-0.25f, step, low_of(near1, T())), rest2 = fmaf(-0.75f, step, low_of(near2, T()));
    const float rest3 = fmaf(-1.25f, step, low_of(near3, T())), rest4 = fmaf(-1.75f, step, low_of(near4, T()));
    // One of them reaches the code, or else the next number does: others are too far away for the rounding of the
    // quotient to matter. So near, the rests are exact.
    constexpr uint32_t kNext = 0x00010001u;
    least[1] = near1 + (rest1 > 0.25f * half_unit ? 0 : kNext);
    least[2] = near2 + (rest2 >= -0.5f * half_unit ? 0 : kNext);
    least[3] = near3 + (rest3 > half_unit ? 0 : kNext);
    least[4] = near4 + (rest4 >= -half_unit ? 0 : kNext);
    least[5] = twice(least[3], T());
    least[6] = twice(least[4], T());
    least[7] = twice(least[5], T());
  }

  // Codes of a pair, in the high four bits of each half; what lies below means nothing.
  __device__ __forceinline__ uint32_t codes(uint32_t pair) const {
    const uint32_t magnitudes = magnitudes_of(pair, T());
    const uint32_t four = at_least(magnitudes, least[4], T());
    const uint32_t two = at_least(magnitudes, ptx::select_bits(four, least[6], least[2]), T());
    const uint32_t odd =
        ptx::select_bits(four, ptx::select_bits(two, least[7], least[5]), ptx::select_bits(two, least[3], least[1]));
    const uint32_t one = at_least(magnitudes, odd, T());
    return ptx::select_bits(0x80008000u, pair,
                            ptx::select_bits(0x40004000u, four, ptx::select_bits(0x20002000u, two, one)));
  }
};

template <typename T>
__device__ __forceinline__ uint32_t encode8(const Block<T>& block, int first, const Thresholds<T>& thresholds) {
  uint32_t codes[4], halves[2];
#pragma unroll
  for (int i = 0; i < 4; ++i) codes[i] = thresholds.codes(block.word(first / 2 + i));
#pragma unroll
  for (int i = 0; i < 2; ++i) halves[i] = __byte_perm(codes[2 * i], codes[2 * i + 1], 0x7351);
  const uint32_t even = __byte_perm(halves[0], halves[1], 0x5410), odd = __byte_perm(halves[0], halves[1], 0x7632);
  return ptx::select_bits(0xF0F0F0F0u, odd, even >> 4);
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

template <typename T>
__device__ __forceinline__ uint2 encode_usual(const Block<T>& block, float step) {
#if !defined(NVFP4_NATIVE_SM120)
  if constexpr (sizeof(T) == 2) {
    if (has_thresholds(step, T())) {
      const Thresholds<T> thresholds(step);
      return make_uint2(encode8(block, 0, thresholds), encode8(block, 8, thresholds));
    }
  }
#endif
  const float reciprocal = reciprocal_in_range(step);
  return make_uint2(encode8(block, 0, step, reciprocal), encode8(block, 8, step, reciprocal));
}

// The codes of a block, and its scale.
template <typename T>
__device__ __forceinline__ uint2 encode(const Block<T>& block, uint32_t amax_bits, float global_scale, Scheme scheme,
                                        BlockScale& scale) {
  if (is_usual(amax_bits, global_scale, scheme)) {
    scale = usual_scale(amax_bits, global_scale);
    return encode_usual(block, scale.step);
  }
  scale = rare_scale<T>(amax_bits, global_scale, scheme);
  // Registers cannot be indexed, so in this loop the block moves past its first value.
  Block<T> rest = block;
  uint2 codes = make_uint2(0, 0);
#pragma unroll 1
  for (int i = 0; i < kGroupSize; ++i) {
    codes.x = codes.x >> 4 | codes.y << 28;
    codes.y = codes.y >> 4 | encode_rare(rest.value(0), scale.step, scheme) << 28;
    rest.drop_first();
  }
  return codes;
}

}  // namespace nvfp4::cuda
