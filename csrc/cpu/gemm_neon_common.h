// What the NEON gemm files share. Included by exactly those, so all of it has internal linkage.
#pragma once

#include <arm_neon.h>

#include "gemm_kernels.h"

namespace nvfp4::cpu {
namespace {

constexpr int kParts = 4;  // vectors of four rows

// Block scales of four rows as s_b * 2^-120, NaN where the byte is 0x7F. `part` selects them in the group's sixteen.
inline float32x4_t scale_bits(uint8x16_t scales, int part) {
  // Each index vector spreads four bytes over four words; 255 is out of range and gives zero.
  const uint32x4_t first = {0xFFFFFF00u, 0xFFFFFF01u, 0xFFFFFF02u, 0xFFFFFF03u};
  const uint32x4_t index = vaddq_u32(first, vdupq_n_u32(4u * static_cast<uint32_t>(part)));
  const uint32x4_t wide = vreinterpretq_u32_u8(vqtbl1q_u8(scales, vreinterpretq_u8_u32(index)));
  const uint32x4_t nan = vceqq_u32(wide, vdupq_n_u32(kE4M3Nan));
  return vreinterpretq_f32_u32(vorrq_u32(vshlq_n_u32(wide, 20), nan));
}

}  // namespace
}  // namespace nvfp4::cpu
