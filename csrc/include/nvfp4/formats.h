// The numbers of NVFP4: e2m1 values, e4m3 block scales, and the one rounding rule. See docs/format.md.
//
// Host and device, no dependencies. Everything here is the scalar definition that the vector kernels must equal bit for
// bit.
#pragma once

#include <cstdint>
#include <cstring>

// Internal linkage on purpose: the same function is compiled once per instruction set, and the linker must never let
// one file's AVX-512 copy serve another file that runs on an older CPU.
#if defined(__CUDACC__)
#define NVFP4_INLINE static inline __host__ __device__
#else
#define NVFP4_INLINE static inline __attribute__((always_inline))
#endif

namespace nvfp4 {

inline constexpr int kGroupSize = 16;                 // values that share one block scale, along K
inline constexpr float kE2M1Max = 6.0f;               // largest magnitude of a value
inline constexpr float kE4M3Max = 448.0f;             // largest finite block scale
inline constexpr float kScaleRange = 2688.0f;         // kE2M1Max * kE4M3Max: global scale = kScaleRange / amax
inline constexpr float kZeroBlockScale = 0.125f;      // replaces a block scale that rounds to zero
inline constexpr uint8_t kZeroBlockScaleCode = 0x20;  // its byte
inline constexpr uint8_t kE4M3Nan = 0x7F;
inline constexpr uint8_t kE2M1NanCode = 7;  // e2m1 has no NaN: like PTX cvt.rn.satfinite, NaN becomes +6

// Twice the value of every code, so that it is an integer: code = sign << 3 | magnitude.
inline constexpr int8_t kTwiceE2M1[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

NVFP4_INLINE uint32_t float_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits;
}

NVFP4_INLINE float bits_float(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof(x));
  return x;
}

// e4m3fn (bias 7, no infinities, 0x7F and 0xFF are NaN) to float32, exact.
NVFP4_INLINE float e4m3_to_float(uint8_t code) {
  const uint32_t magnitude = code & 0x7Fu;
  if (magnitude == kE4M3Nan) return bits_float(0x7FC00000u);
  // Placing the seven bits at the top of a float32 gives the value times 2^-120, subnormals included.
  const float value = bits_float(magnitude << 20) * bits_float(247u << 23);
  return code & 0x80u ? -value : value;
}

// float32 >= 0 to e4m3fn: round to nearest, ties to even, saturating at 448; NaN stays NaN.
NVFP4_INLINE uint8_t float_to_e4m3(float x) {
  if (x != x) return kE4M3Nan;
  if (x >= kE4M3Max) return 0x7E;
  if (x < 0.015625f) {
    // Below 2^-6 the grid is uniform with step 2^-9; adding 2^14 leaves exactly that step in the mantissa.
    return static_cast<uint8_t>(float_bits(x + 16384.0f) - float_bits(16384.0f));
  }
  const uint32_t bits = float_bits(x);
  const uint32_t rounded = bits + 0x7FFFFu + ((bits >> 20) & 1u);
  return static_cast<uint8_t>((rounded >> 20) - (120u << 3));
}

// float32 to a four-bit e2m1 code: round to nearest, ties to the even code, saturating at 6; the sign of zero is kept.
NVFP4_INLINE uint8_t float_to_e2m1(float x) {
  if (x != x) return kE2M1NanCode;
  const uint32_t sign = float_bits(x) >> 31;
  const float magnitude = x < 0 ? -x : x;
  const uint32_t index = magnitude <= 0.25f   ? 0u
                         : magnitude < 0.75f  ? 1u
                         : magnitude <= 1.25f ? 2u
                         : magnitude < 1.75f  ? 3u
                         : magnitude <= 2.5f  ? 4u
                         : magnitude < 3.5f   ? 5u
                         : magnitude <= 5.0f  ? 6u
                                              : 7u;
  return static_cast<uint8_t>(sign << 3 | index);
}

}  // namespace nvfp4
