// NEON W4A16 kernels: exact float weights, fused multiply-add.
#include "gemm_neon_common.h"

namespace nvfp4::cpu {
namespace {

// W4A16 decodes to float16, whose high byte alone holds e2m1 exactly, and widens to float32.
alignas(16) constexpr uint8_t kFloat16High[16] = {0x00, 0x38, 0x3C, 0x3E, 0x40, 0x42, 0x44, 0x46,
                                                  0x80, 0xB8, 0xBC, 0xBE, 0xC0, 0xC2, 0xC4, 0xC6};

// Column c of four rows: byte c of each 32-bit word becomes the high byte of a float16, and that a float32.
inline float32x4_t column_floats(uint8x16_t bytes, int column) {
  const uint32x4_t word = vshlq_u32(vreinterpretq_u32_u8(bytes), vdupq_n_s32(8 - 8 * column));
  return vcvt_f32_f16(vreinterpret_f16_u16(vand_u16(vmovn_u32(word), vdup_n_u16(0xFF00))));
}

template <int T>
void stream_block(const uint8_t* tiles, int64_t tile_count, const float* block, float* sums) {
  const uint8x16_t table = vld1q_u8(kFloat16High);
  const float32x4_t to_value = vreinterpretq_f32_u32(vdupq_n_u32(247u << 23));  // 2^120
  float32x4_t chain[T][kParts][2];
  for (int i = 0; i < T * kParts * 2; ++i) chain[i / 8][i / 2 % kParts][i % 2] = vdupq_n_f32(0.0f);
  for (int64_t tile = 0; tile < tile_count; ++tile, tiles += kTileBytes) {
    for (int g = 0; g < kTileGroups; ++g, block += kGroupSize * T) {
      const uint8x16_t scales = vld1q_u8(tiles + kTileCodeBytes + 16 * g);
      for (int part = 0; part < kParts; ++part) {
        float32x4_t group[T][2];
        for (int t = 0; t < T; ++t) group[t][0] = group[t][1] = vdupq_n_f32(0.0f);
        for (int quad = 0; quad < 4; ++quad) {
          const uint8x16_t v = vld1q_u8(tiles + 128 * g + 64 * (quad / 2) + 16 * part);
          const uint8x16_t bytes = vqtbl1q_u8(table, quad % 2 ? vshrq_n_u8(v, 4) : vandq_u8(v, vdupq_n_u8(15)));
          for (int column = 0; column < 4; ++column) {
            const float32x4_t w = column_floats(bytes, column);
            for (int t = 0; t < T; ++t) {
              // A block's four floats are columns 0, 2, 1, 3.
              const float x = block[4 * (T * quad + t) + (column % 2) * 2 + column / 2];
              group[t][column / 2] = vfmaq_n_f32(group[t][column / 2], w, x);
            }
          }
        }
        const float32x4_t s_b = vmulq_f32(scale_bits(scales, part), to_value);
        for (int t = 0; t < T; ++t) {
          for (int parity = 0; parity < 2; ++parity) {
            chain[t][part][parity] = vfmaq_f32(chain[t][part][parity], s_b, group[t][parity]);
          }
        }
      }
    }
  }
  for (int t = 0; t < T; ++t) {
    for (int part = 0; part < kParts; ++part) {
      vst1q_f32(sums + 16 * t + 4 * part, vaddq_f32(chain[t][part][0], chain[t][part][1]));
    }
  }
}

void decode(const uint8_t* tiles, int64_t tile_count, void* decoded) {
  float* panel = static_cast<float*>(decoded);
  const uint8x16_t table = vld1q_u8(kFloat16High);
  const float32x4_t to_value = vreinterpretq_f32_u32(vdupq_n_u32(247u << 23));  // 2^120
  for (int64_t tile = 0; tile < tile_count; ++tile, tiles += kTileBytes) {
    for (int g = 0; g < kTileGroups; ++g, panel += kFloatPanelGroup) {
      const uint8x16_t scales = vld1q_u8(tiles + kTileCodeBytes + 16 * g);
      for (int part = 0; part < kParts; ++part) {
        for (int quad = 0; quad < 4; ++quad) {
          const uint8x16_t v = vld1q_u8(tiles + 128 * g + 64 * (quad / 2) + 16 * part);
          const uint8x16_t bytes = vqtbl1q_u8(table, quad % 2 ? vshrq_n_u8(v, 4) : vandq_u8(v, vdupq_n_u8(15)));
          for (int i = 0; i < 4; ++i) vst1q_f32(panel + 16 * (4 * quad + i) + 4 * part, column_floats(bytes, i));
        }
        vst1q_f32(panel + 256 + 4 * part, vmulq_f32(scale_bits(scales, part), to_value));
      }
    }
  }
}

// One chain of all sixteen rows: 4 * T sums, all in registers.
template <int T>
inline __attribute__((always_inline)) void panel_chain(const float* panel, const float* block, int parity,
                                                       float* chains) {
  float32x4_t group[T][kParts];
  for (int i = 0; i < T * kParts; ++i) group[i / kParts][i % kParts] = vdupq_n_f32(0.0f);
  for (int i = 0; i < 8; ++i) {
    // A block's four floats are columns 0, 2, 1, 3.
    const float* w = panel + 16 * (4 * (i / 2) + 2 * parity + i % 2);
    const float* x = block + 4 * T * (i / 2) + 2 * (i % 2) + parity;
    for (int part = 0; part < kParts; ++part) {
      const float32x4_t rows = vld1q_f32(w + 4 * part);
      for (int t = 0; t < T; ++t) group[t][part] = vfmaq_n_f32(group[t][part], rows, x[4 * t]);
    }
  }
  for (int t = 0; t < T; ++t) {
    for (int part = 0; part < kParts; ++part) {
      float* chain = chains + 32 * t + 16 * parity + 4 * part;
      vst1q_f32(chain, vfmaq_f32(vld1q_f32(chain), vld1q_f32(panel + 256 + 4 * part), group[t][part]));
    }
  }
}

template <int T>
void panel_block(const float* panel, int64_t group_count, const float* block, float* chains) {
  for (int64_t g = 0; g < group_count; ++g, panel += kFloatPanelGroup, block += kGroupSize * T) {
    panel_chain<T>(panel, block, 0, chains);
    panel_chain<T>(panel, block, 1, chains);
  }
}

void stream(const uint8_t* tiles, int64_t tile_count, const void* block, int width, float* sums) {
  const float* x = static_cast<const float*>(block);
  switch (width) {
    case 1:
      return stream_block<1>(tiles, tile_count, x, sums);
    case 2:
      return stream_block<2>(tiles, tile_count, x, sums);
    case 3:
      return stream_block<3>(tiles, tile_count, x, sums);
    default:
      return stream_block<4>(tiles, tile_count, x, sums);
  }
}

void panel(const void* panel, int64_t group_count, const void* block, int width, float* chains) {
  const float* w = static_cast<const float*>(panel);
  const float* x = static_cast<const float*>(block);
  switch (width) {
    case 1:
      return panel_block<1>(w, group_count, x, chains);
    case 2:
      return panel_block<2>(w, group_count, x, chains);
    case 3:
      return panel_block<3>(w, group_count, x, chains);
    default:
      return panel_block<4>(w, group_count, x, chains);
  }
}

}  // namespace

const FloatGemmKernels kFloatGemmNeon = {{4, 1.0, 2.0}, 4, kFloatPanelGroupBytes, 4, stream, decode, panel};

}  // namespace nvfp4::cpu
