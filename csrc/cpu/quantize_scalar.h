// The scalar definition of quantisation, one block at a time. The portable kernel is made of it; the vector kernels use
// it for the rare blocks outside their range, and the tests hold every kernel against it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "nvfp4/formats.h"
#include "nvfp4/problem.h"

namespace nvfp4::cpu {

inline constexpr uint32_t kInfinityBits = 0x7F800000u;
inline constexpr uint32_t kMagnitudeBits = 0x7FFFFFFFu;

NVFP4_INLINE int64_t dtype_bytes(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

// --- Conversions. Exact upwards; round to nearest, ties to even, downwards; a NaN stays a NaN.

NVFP4_INLINE float bf16_to_float(uint16_t code) { return bits_float(static_cast<uint32_t>(code) << 16); }

NVFP4_INLINE uint16_t float_to_bf16(float x) {
  const uint32_t bits = float_bits(x);
  if (x != x) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

NVFP4_INLINE float fp16_to_float(uint16_t code) {
  const uint32_t sign = static_cast<uint32_t>(code & 0x8000u) << 16;
  const uint32_t magnitude = code & 0x7FFFu;
  if (magnitude >= 0x7C00u) return bits_float(sign | kInfinityBits | (magnitude & 0x3FFu) << 13);
  // Read as a float32, the shifted code is the value times 2^-112; a subnormal becomes normal by the multiplication.
  return bits_float(sign | float_bits(bits_float(magnitude << 13) * bits_float(239u << 23)));
}

NVFP4_INLINE uint16_t float_to_fp16(float x) {
  const uint32_t bits = float_bits(x);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & kMagnitudeBits;
  if (magnitude > kInfinityBits) return static_cast<uint16_t>(sign | 0x7E00u);
  if (magnitude >= 0x477FF000u) return static_cast<uint16_t>(sign | 0x7C00u);  // 65520 and above round to infinity
  if (magnitude < 0x38800000u) {
    // Below 2^-14 the grid is uniform with step 2^-24; adding 1/2 leaves exactly that step in the mantissa.
    return static_cast<uint16_t>(sign | (float_bits(bits_float(magnitude) + 0.5f) - float_bits(0.5f)));
  }
  return static_cast<uint16_t>(sign | (((magnitude + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13) - (112u << 10)));
}

// The float32 `x` rounded to `dtype` and back.
NVFP4_INLINE float round_to(DType dtype, float x) {
  if (dtype == DType::kBFloat16) return bf16_to_float(float_to_bf16(x));
  if (dtype == DType::kFloat16) return fp16_to_float(float_to_fp16(x));
  return x;
}

NVFP4_INLINE float load_element(const void* x, DType dtype, int64_t index) {
  const auto* at = static_cast<const unsigned char*>(x) + index * dtype_bytes(dtype);
  if (dtype == DType::kFloat32) {
    float value;
    memcpy(&value, at, sizeof(value));
    return value;
  }
  uint16_t code;
  memcpy(&code, at, sizeof(code));
  return dtype == DType::kBFloat16 ? bf16_to_float(code) : fp16_to_float(code);
}

// --- One block of 16.

// The largest magnitude of a block. A NaN wins over everything and an infinity over every number, since magnitudes are
// ordered as their bits are.
NVFP4_INLINE float block_amax(const void* x, DType dtype, int64_t block) {
  uint32_t amax = 0;
  for (int64_t i = 0; i < kGroupSize; ++i) {
    const uint32_t bits = float_bits(load_element(x, dtype, block * kGroupSize + i)) & kMagnitudeBits;
    amax = bits > amax ? bits : amax;
  }
  return bits_float(amax);
}

// The largest finite magnitude of a block that also holds infinities or NaN.
NVFP4_INLINE float block_finite_amax(const void* x, DType dtype, int64_t block) {
  uint32_t amax = 0;
  for (int64_t i = 0; i < kGroupSize; ++i) {
    const uint32_t bits = float_bits(load_element(x, dtype, block * kGroupSize + i)) & kMagnitudeBits;
    amax = bits > amax && bits < kInfinityBits ? bits : amax;
  }
  return bits_float(amax);
}

// A block's e4m3 scale from its largest magnitude.
NVFP4_INLINE uint8_t block_scale(float amax, float global_scale, Scheme scheme, DType dtype) {
  float sixth = amax / kE2M1Max;
  if (scheme == Scheme::kCompressedTensors) sixth = round_to(dtype, sixth);
  const uint8_t code = float_to_e4m3(global_scale * sixth);
  return code == 0 ? kZeroBlockScaleCode : code;
}

// The eight bytes of a block: the even column in the low nibble.
NVFP4_INLINE void block_codes(const void* x, DType dtype, int64_t block, uint8_t scale, float global_scale,
                              Scheme scheme, uint8_t* packed) {
  const float step = e4m3_to_float(scale) / global_scale;
  uint8_t codes[kGroupSize] = {};
  for (int64_t i = 0; i < kGroupSize; ++i) {
    const float quotient = load_element(x, dtype, block * kGroupSize + i) / step;
    codes[i] = float_to_e2m1(quotient);
    if (scheme == Scheme::kCompressedTensors && quotient == 0.0f) codes[i] = 0;
  }
  for (int64_t i = 0; i < kGroupSize / 2; ++i) {
    packed[i] = static_cast<uint8_t>(codes[2 * i] | codes[2 * i + 1] << 4);
  }
}

}  // namespace nvfp4::cpu
