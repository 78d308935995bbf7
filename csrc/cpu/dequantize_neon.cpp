// Dequantisation by table: a block's eight magnitudes are multiplied and rounded once, then looked up sixteen times.
#include <arm_neon.h>

#include "dequantize.h"

namespace nvfp4::cpu {
namespace {

// The sixteen codes of a block as bytes, in the order of their columns.
uint8x16_t unpack_codes(const uint8_t* packed) {
  const uint8x8_t bytes = vld1_u8(packed);
  return vcombine_u8(vzip1_u8(vand_u8(bytes, vdup_n_u8(15)), vshr_n_u8(bytes, 4)),
                     vzip2_u8(vand_u8(bytes, vdup_n_u8(15)), vshr_n_u8(bytes, 4)));
}

// Four products as bf16 or fp16; they are finite, or infinite by overflow, never NaN.
template <DType kDType>
uint16x4_t round_products(float32x4_t products) {
  if constexpr (kDType == DType::kFloat16) {
    return vreinterpret_u16_f16(vcvt_f16_f32(products));
  } else {
    const uint32x4_t bits = vreinterpretq_u32_f32(products);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    return vshrn_n_u32(vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7FFF)), odd), 16);
  }
}

template <DType kDType>
void store_block(float32x4_t low, float32x4_t high, uint8x16_t codes, uint8_t* out) {
  if constexpr (kDType == DType::kFloat32) {
    // Byte b of code c sits at 4 * c + b of the 32-byte table of magnitudes.
    const uint8x16x2_t table{vreinterpretq_u8_f32(low), vreinterpretq_u8_f32(high)};
    const uint8x16_t first = vshlq_n_u8(vandq_u8(codes, vdupq_n_u8(7)), 2);
    const uint8x16_t sign = vandq_u8(vshlq_n_u8(codes, 4), vdupq_n_u8(0x80));
    uint8x16x4_t bytes;
    for (int b = 0; b < 4; ++b) bytes.val[b] = vqtbl2q_u8(table, vaddq_u8(first, vdupq_n_u8(static_cast<uint8_t>(b))));
    bytes.val[3] = veorq_u8(bytes.val[3], sign);
    vst4q_u8(out, bytes);
  } else {
    const uint8x16_t words =
        vreinterpretq_u8_u16(vcombine_u16(round_products<kDType>(low), round_products<kDType>(high)));
    const uint8x8_t even = vget_low_u8(vuzp1q_u8(words, words)), odd = vget_low_u8(vuzp2q_u8(words, words));
    uint8x16x2_t bytes;
    bytes.val[0] = vqtbl1q_u8(vcombine_u8(even, even), codes);
    bytes.val[1] = vqtbl1q_u8(vcombine_u8(odd, veor_u8(odd, vdup_n_u8(0x80))), codes);
    vst2q_u8(out, bytes);
  }
}

template <DType kDType>
void dequantize_row(const DequantizeRow& row) {
  const float magnitudes[8] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
  const float32x4_t small = vld1q_f32(magnitudes), large = vld1q_f32(magnitudes + 4);
  const int64_t block_bytes = kGroupSize * dtype_bytes(kDType);
  auto* out = static_cast<uint8_t*>(row.out);
  for (int64_t g = 0; g < row.groups; ++g, out += block_bytes) {
    const float step = block_step(row.scale[g], row.global_scale);
    if ((float_bits(step) & kMagnitudeBits) >= kInfinityBits) {
      dequantize_block(kDType, row, g);
    } else {
      store_block<kDType>(vmulq_n_f32(small, step), vmulq_n_f32(large, step), unpack_codes(row.packed + 8 * g), out);
    }
  }
}

}  // namespace

void dequantize_row_neon(DType dtype, const DequantizeRow& row) {
  if (dtype == DType::kBFloat16) return dequantize_row<DType::kBFloat16>(row);
  if (dtype == DType::kFloat16) return dequantize_row<DType::kFloat16>(row);
  dequantize_row<DType::kFloat32>(row);
}

}  // namespace nvfp4::cpu
