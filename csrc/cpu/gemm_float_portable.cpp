// Portable W4A16 kernels: plain C++, the fallback of every CPU, and what the others are compared with.
#include "gemm_kernels.h"

namespace nvfp4::cpu {
namespace {

constexpr int kRows = static_cast<int>(kTileRows);

// Column 0..15 of one row of a group, as twice the value.
inline int8_t code_at(const uint8_t* group, int row, int column) {
  const uint8_t byte = group[64 * (column / 8) + 4 * row + column % 4];
  return kTwiceE2M1[column % 8 < 4 ? byte & 15 : byte >> 4];
}

void decode(const uint8_t* tiles, int64_t tile_count, void* decoded) {
  float* panel = static_cast<float*>(decoded);
  for (int64_t tile = 0; tile < tile_count; ++tile, tiles += kTileBytes) {
    for (int g = 0; g < kTileGroups; ++g, panel += kFloatPanelGroup) {
      for (int row = 0; row < kRows; ++row) {
        for (int column = 0; column < kGroupSize; ++column) {
          panel[16 * column + row] = 0.5f * static_cast<float>(code_at(tiles + 128 * g, row, column));
        }
        panel[256 + row] = e4m3_to_float(tiles[kTileCodeBytes + 16 * g + row]);
      }
    }
  }
}

void panel(const void* decoded, int64_t group_count, const void* tokens, int width, float* chains) {
  constexpr int kPlace[4] = {0, 2, 1, 3};  // where a block keeps columns 0 to 3
  const float* panel = static_cast<const float*>(decoded);
  const float* block = static_cast<const float*>(tokens);
  for (int64_t g = 0; g < group_count; ++g, panel += kFloatPanelGroup, block += kGroupSize * width) {
    for (int t = 0; t < width; ++t) {
      float group[2][kRows] = {};
      for (int column = 0; column < kGroupSize; ++column) {
        const float x = block[4 * (width * (column / 4) + t) + kPlace[column % 4]];
        float* sums = group[column % 4 / 2];
        for (int row = 0; row < kRows; ++row) sums[row] = __builtin_fmaf(panel[16 * column + row], x, sums[row]);
      }
      for (int i = 0; i < 2 * kRows; ++i) {
        float& chain = chains[2 * kRows * t + i];
        chain = __builtin_fmaf(panel[256 + i % kRows], group[i / kRows][i % kRows], chain);
      }
    }
  }
}

void stream(const uint8_t* tiles, int64_t tile_count, const void* tokens, int width, float* sums) {
  const float* block = static_cast<const float*>(tokens);
  float tile_panel[kTileGroups * kFloatPanelGroup];
  float chains[kMaxTokens * 2 * kRows] = {};
  for (int64_t tile = 0; tile < tile_count; ++tile, tiles += kTileBytes, block += kTileCols * width) {
    decode(tiles, 1, tile_panel);
    panel(tile_panel, kTileGroups, block, width, chains);
  }
  for (int t = 0; t < width; ++t) {
    const float* even = chains + 2 * kRows * t;
    for (int row = 0; row < kRows; ++row) sums[16 * t + row] = even[row] + even[kRows + row];
  }
}

}  // namespace

const FloatGemmKernels kFloatGemmPortable = {{4, 1.0, 2.0}, 4, kFloatPanelGroupBytes, 4, stream, decode, panel};

}  // namespace nvfp4::cpu
