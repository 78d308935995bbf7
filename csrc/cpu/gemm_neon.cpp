// NEON gemm kernels for ARMv8.2 with the dot product: four weight rows in a vector, signed by signed bytes.
#include <arm_neon.h>

#include "gemm_epilogue.h"
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

// Word `quad` of a part: columns 4*quad to 4*quad + 3 of four rows, as twice the value.
inline void decode_part(const uint8_t* codes, int part, int8x16_t table, int8x16_t (&w)[4]) {
  for (int half = 0; half < 2; ++half) {
    const uint8x16_t v = vld1q_u8(codes + 64 * half + 16 * part);
    w[2 * half] = vqtbl1q_s8(table, vandq_u8(v, vdupq_n_u8(15)));
    w[2 * half + 1] = vqtbl1q_s8(table, vshrq_n_u8(v, 4));
  }
}

inline float32x4_t add_token(const int8x16_t (&w)[4], float32x4_t s_b, int8x16_t x, float s_a, float32x4_t acc) {
  int32x4_t dot = vdotq_laneq_s32(vdupq_n_s32(0), w[0], x, 0);
  dot = vdotq_laneq_s32(dot, w[1], x, 1);
  dot = vdotq_laneq_s32(dot, w[2], x, 2);
  dot = vdotq_laneq_s32(dot, w[3], x, 3);
  return vfmaq_n_f32(acc, vmulq_f32(vcvtq_f32_s32(dot), s_b), s_a);
}

inline int8x16_t token_codes(const uint8_t* x) { return vreinterpretq_s8_u8(vld1q_u8(x)); }

inline float token_scale(const uint8_t* p) {
  float s_a;
  memcpy(&s_a, p, sizeof(s_a));
  return s_a;
}

template <int T>
void stream_block(const uint8_t* tiles, int64_t tile_count, const uint8_t* block, float* sums) {
  const int8x16_t table = vld1q_s8(kTwiceE2M1);
  for (int64_t tile = 0; tile < tile_count; ++tile, tiles += kTileBytes) {
    float32x4_t acc[T][kParts];
    for (int i = 0; i < T * kParts; ++i) acc[i / kParts][i % kParts] = vld1q_f32(sums + 4 * i);
    for (int g = 0; g < kTileGroups; ++g, block += token_group_bytes(T)) {
      const uint8x16_t scales = vld1q_u8(tiles + kTileCodeBytes + 16 * g);
      for (int part = 0; part < kParts; ++part) {
        int8x16_t w[4];
        decode_part(tiles + 128 * g, part, table, w);
        const float32x4_t s_b = scale_bits(scales, part);
        for (int t = 0; t < T; ++t) {
          const float s_a = token_scale(block + 16 * T + 4 * t);
          acc[t][part] = add_token(w, s_b, token_codes(block + 16 * t), s_a, acc[t][part]);
        }
      }
    }
    for (int i = 0; i < T * kParts; ++i) vst1q_f32(sums + 4 * i, acc[i / kParts][i % kParts]);
  }
}

// A decoded group: int8 [part][word][row 0..3][4 columns], then float s_b[16].
void decode(const uint8_t* tiles, int64_t tile_count, uint8_t* panel) {
  const int8x16_t table = vld1q_s8(kTwiceE2M1);
  for (int64_t tile = 0; tile < tile_count; ++tile, tiles += kTileBytes) {
    for (int g = 0; g < kTileGroups; ++g, panel += kPanelGroupBytes) {
      const uint8x16_t scales = vld1q_u8(tiles + kTileCodeBytes + 16 * g);
      for (int part = 0; part < kParts; ++part) {
        int8x16_t w[4];
        decode_part(tiles + 128 * g, part, table, w);
        for (int i = 0; i < 4; ++i) vst1q_u8(panel + 64 * part + 16 * i, vreinterpretq_u8_s8(w[i]));
        vst1q_u8(panel + 256 + 16 * part, vreinterpretq_u8_f32(scale_bits(scales, part)));
      }
    }
  }
}

// Two parts at a time: their weights and sums and all tokens' codes stay in the 32 registers.
template <int T>
void panel_block(const uint8_t* panel, int64_t group_count, const uint8_t* block, float* sums) {
  for (int first = 0; first < kParts; first += 2) {
    float32x4_t acc[T][2];
    for (int i = 0; i < 2 * T; ++i) acc[i / 2][i % 2] = vld1q_f32(sums + 16 * (i / 2) + 4 * (first + i % 2));
    const uint8_t* p = panel;
    const uint8_t* x = block;
    for (int64_t g = 0; g < group_count; ++g, p += kPanelGroupBytes, x += token_group_bytes(T)) {
      for (int part = 0; part < 2; ++part) {
        int8x16_t w[4];
        for (int i = 0; i < 4; ++i) w[i] = vreinterpretq_s8_u8(vld1q_u8(p + 64 * (first + part) + 16 * i));
        const float32x4_t s_b = vreinterpretq_f32_u8(vld1q_u8(p + 256 + 16 * (first + part)));
        for (int t = 0; t < T; ++t) {
          acc[t][part] = add_token(w, s_b, token_codes(x + 16 * t), token_scale(x + 16 * T + 4 * t), acc[t][part]);
        }
      }
    }
    for (int i = 0; i < 2 * T; ++i) vst1q_f32(sums + 16 * (i / 2) + 4 * (first + i % 2), acc[i / 2][i % 2]);
  }
}

// W4A16 decodes to float16, whose high byte alone holds e2m1 exactly, and widens to float32.
alignas(16) constexpr uint8_t kFloat16High[16] = {0x00, 0x38, 0x3C, 0x3E, 0x40, 0x42, 0x44, 0x46,
                                                  0x80, 0xB8, 0xBC, 0xBE, 0xC0, 0xC2, 0xC4, 0xC6};

// Column c of four rows: byte c of each 32-bit word becomes the high byte of a float16, and that a float32.
inline float32x4_t column_floats(uint8x16_t bytes, int column) {
  const uint32x4_t word = vshlq_u32(vreinterpretq_u32_u8(bytes), vdupq_n_s32(8 - 8 * column));
  return vcvt_f32_f16(vreinterpret_f16_u16(vand_u16(vmovn_u32(word), vdup_n_u16(0xFF00))));
}

template <int T>
void stream_float_block(const uint8_t* tiles, int64_t tile_count, const float* block, float* sums) {
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

void stream(const uint8_t* tiles, int64_t tile_count, const uint8_t* block, int width, float* sums) {
  switch (width) {
    case 1:
      return stream_block<1>(tiles, tile_count, block, sums);
    case 2:
      return stream_block<2>(tiles, tile_count, block, sums);
    case 3:
      return stream_block<3>(tiles, tile_count, block, sums);
    default:
      return stream_block<4>(tiles, tile_count, block, sums);
  }
}

void panel(const uint8_t* panel, int64_t group_count, const uint8_t* block, int width, float* sums) {
  switch (width) {
    case 1:
      return panel_block<1>(panel, group_count, block, sums);
    case 2:
      return panel_block<2>(panel, group_count, block, sums);
    case 3:
      return panel_block<3>(panel, group_count, block, sums);
    default:
      return panel_block<4>(panel, group_count, block, sums);
  }
}

void stream_float(const uint8_t* tiles, int64_t tile_count, const float* block, int width, float* sums) {
  switch (width) {
    case 1:
      return stream_float_block<1>(tiles, tile_count, block, sums);
    case 2:
      return stream_float_block<2>(tiles, tile_count, block, sums);
    case 3:
      return stream_float_block<3>(tiles, tile_count, block, sums);
    default:
      return stream_float_block<4>(tiles, tile_count, block, sums);
  }
}

}  // namespace

const GemmKernels kGemmNeon = {4, false, stream, decode, panel, stream_float, finish};

}  // namespace nvfp4::cpu
