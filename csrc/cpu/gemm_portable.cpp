// Portable gemm kernels: plain C++, the fallback of every CPU, and what the others are compared with.
#include "gemm_epilogue.h"
#include "gemm_kernels.h"

namespace nvfp4::cpu {
namespace {

constexpr int kRows = static_cast<int>(kTileRows);

inline float scale_value(uint8_t byte) {
  return byte == kE4M3Nan ? bits_float(0x7FC00000u) : bits_float(static_cast<uint32_t>(byte) << 20);
}

// Column 0..15 of one row of a group, as twice the value.
inline int8_t code_at(const uint8_t* group, int row, int column) {
  const uint8_t byte = group[64 * (column / 8) + 4 * row + column % 4];
  return kTwiceE2M1[column % 8 < 4 ? byte & 15 : byte >> 4];
}

// A decoded group: int8 [row][16 columns], then float s_b[16].
void decode_group(const uint8_t* codes, const uint8_t* scales, uint8_t* panel) {
  int8_t* values = reinterpret_cast<int8_t*>(panel);
  float s_b[kRows];
  for (int row = 0; row < kRows; ++row) {
    for (int column = 0; column < kGroupSize; ++column) values[16 * row + column] = code_at(codes, row, column);
    s_b[row] = scale_value(scales[row]);
  }
  memcpy(panel + 256, s_b, sizeof(s_b));
}

void decode(const uint8_t* tiles, int64_t tile_count, uint8_t* panel) {
  for (int64_t tile = 0; tile < tile_count; ++tile, tiles += kTileBytes) {
    for (int g = 0; g < kTileGroups; ++g, panel += kPanelGroupBytes) {
      decode_group(tiles + 128 * g, tiles + kTileCodeBytes + 16 * g, panel);
    }
  }
}

void panel(const uint8_t* panel, int64_t group_count, const uint8_t* block, int width, float* sums) {
  for (int64_t g = 0; g < group_count; ++g, panel += kPanelGroupBytes, block += token_group_bytes(width)) {
    float s_b[kRows];
    memcpy(s_b, panel + 256, sizeof(s_b));
    for (int t = 0; t < width; ++t) {
      const int8_t* x = reinterpret_cast<const int8_t*>(block) + 16 * t;
      float s_a;
      memcpy(&s_a, block + 16 * width + 4 * t, sizeof(s_a));
      for (int row = 0; row < kRows; ++row) {
        const int8_t* w = reinterpret_cast<const int8_t*>(panel) + 16 * row;
        int32_t dot = 0;
        for (int column = 0; column < kGroupSize; ++column) dot += static_cast<int16_t>(x[column] * w[column]);
        sums[16 * t + row] += static_cast<float>(dot) * s_b[row] * s_a;
      }
    }
  }
}

void stream(const uint8_t* tiles, int64_t tile_count, const uint8_t* block, int width, float* sums) {
  alignas(64) uint8_t tile_panel[kTileGroups * kPanelGroupBytes];
  for (int64_t tile = 0; tile < tile_count; ++tile, tiles += kTileBytes) {
    decode(tiles, 1, tile_panel);
    panel(tile_panel, kTileGroups, block, width, sums);
    block += kTileGroups * token_group_bytes(width);
  }
}

}  // namespace

const GemmKernels kGemmPortable = {{4, 1.0, 2.0}, false, 0, stream, decode, panel, finish};

}  // namespace nvfp4::cpu
