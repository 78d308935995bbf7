// NEON gemm kernels for ARMv8.2 with the dot product: four weight rows in a vector, signed by signed bytes.
#include "gemm_epilogue.h"
#include "gemm_neon_common.h"

namespace nvfp4::cpu {
namespace {

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

}  // namespace

const GemmKernels kGemmNeon = {{4, 1.0, 2.0}, false, 0, stream, decode, panel, finish};

}  // namespace nvfp4::cpu
