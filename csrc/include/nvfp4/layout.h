// Byte layouts. Every one is a bijection of the plain layout: packed [rows, K/2] with the even column in the low
// nibble, scales [rows, K/16] row-major. See docs/format.md for pictures.
#pragma once

#include <cstdint>

#include "nvfp4/formats.h"

namespace nvfp4 {

NVFP4_INLINE constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
NVFP4_INLINE constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// --- 128x4: the block-scale layout of Blackwell's tensor cores. Padded to 128 rows and 4 groups; padding bytes are
// zero.

NVFP4_INLINE constexpr int64_t swizzled_bytes(int64_t rows, int64_t groups) {
  return round_up(rows, 128) * round_up(groups, 4);
}

NVFP4_INLINE constexpr int64_t swizzled_offset(int64_t row, int64_t group, int64_t groups) {
  const int64_t block = (row / 128) * ceil_div(groups, 4) + group / 4;
  return block * 512 + (row % 32) * 16 + (row / 32 % 4) * 4 + group % 4;
}

// --- n16k64: the weight layout of the CPU kernels ("n in lanes").
//
// A tile holds 16 weight rows by 64 columns: 512 bytes of codes and then 64 bytes of scales, nine cache lines in all.
// Tiles of one 16-row panel lie one after the other along K, so a kernel reads one sequential stream. Rows past N and
// columns past K are zero codes with zero scales.
//   codes: byte [group 0..3][half 0..1][row 0..15][b 0..3]; its low nibble is column 16*group + 8*half + b,
//          its high nibble column 16*group + 8*half + 4 + b. So a 32-bit lane holds one row, and masking the nibbles of
//          a vector of lanes gives four consecutive columns of every row: the operand of an 8-bit dot product.
//   scales: byte [group 0..3][row 0..15].

inline constexpr int64_t kTileRows = 16;
inline constexpr int64_t kTileCols = 64;
inline constexpr int64_t kTileGroups = kTileCols / kGroupSize;
inline constexpr int64_t kTileCodeBytes = kTileRows * kTileCols / 2;
inline constexpr int64_t kTileBytes = kTileCodeBytes + kTileRows * kTileGroups;  // 576

NVFP4_INLINE constexpr int64_t tiles_bytes(int64_t n, int64_t k) {
  return ceil_div(n, kTileRows) * ceil_div(k, kTileCols) * kTileBytes;
}

}  // namespace nvfp4
