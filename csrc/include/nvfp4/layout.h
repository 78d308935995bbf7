// Byte layouts. Every one is a bijection of the plain layout: packed [rows, K/2] with the even column in the low
// nibble, scales [rows, K/16] row-major. See docs/format.md for pictures.
#pragma once

#include <cstdint>

#include "nvfp4/formats.h"

namespace nvfp4 {

NVFP4_INLINE constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
NVFP4_INLINE constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// --- 128x4 and 32x4: block scales in atoms of 128 or 32 rows by four groups. 128x4 is the layout of Blackwell's tensor
// cores. In 32x4 word l of an atom is what lane l of a warp holds for the instruction: row 8 (l % 4) + l / 4. Padded to
// whole atoms; padding bytes are zero.

NVFP4_INLINE constexpr int64_t swizzled_bytes(int64_t rows, int64_t groups, int64_t atom_rows = 128) {
  return round_up(rows, atom_rows) * round_up(groups, 4);
}

NVFP4_INLINE constexpr int64_t swizzled_offset(int64_t row, int64_t group, int64_t groups, int64_t atom_rows = 128) {
  const int64_t atom = (row / atom_rows) * ceil_div(groups, 4) + group / 4;
  const int64_t quarter = atom_rows / 4;
  return atom * atom_rows * 4 + (row % quarter) * 16 + (row / quarter % 4) * 4 + group % 4;
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

// --- n128k128: the weight layout of the SM120 kernels, in the order in which lanes hold fragments.
//
// A unit holds 128 weight rows by 128 columns, 9,216 bytes: two halves of 64 columns, each 4,096 bytes of codes and 512
// of scales. Units of one 128-row panel lie one after the other along K, so a thread block reads one sequential stream
// by bulk copies and every load from shared memory is 16 bytes a lane without bank conflicts. Rows past N and columns
// past K are zero codes with zero scales.
//   codes: [16 rows: 0..7][lane 0..31][16 bytes], operand A of mma.m16n8k64: with g = lane / 4 and t = lane % 4 the
//   four
//          words are row g columns 8t.., row g + 8 columns 8t.., row g columns 32 + 8t.., row g + 8 columns 32 + 8t..
//   scales: [32 rows: 0..3][lane][4 bytes], an atom of 32x4.

inline constexpr int64_t kUnitRows = 128;
inline constexpr int64_t kUnitCols = 128;
inline constexpr int64_t kHalfUnitCodeBytes = kUnitRows * kUnitCols / 4;
inline constexpr int64_t kHalfUnitBytes = kHalfUnitCodeBytes + kUnitRows * kUnitCols / 2 / kGroupSize;  // 4,608
inline constexpr int64_t kUnitBytes = 2 * kHalfUnitBytes;

NVFP4_INLINE constexpr int64_t units_bytes(int64_t n, int64_t k) {
  return ceil_div(n, kUnitRows) * ceil_div(k, kUnitCols) * kUnitBytes;
}

// Where the word with codes `column` .. `column` + 7 of a row begins; `column` is a multiple of 8.
NVFP4_INLINE constexpr int64_t unit_word_offset(int64_t row, int64_t column, int64_t k) {
  const int64_t unit = row / kUnitRows * ceil_div(k, kUnitCols) + column / kUnitCols;
  const int64_t lane = row % 8 * 4 + column % 32 / 8;
  const int64_t word = row % 16 / 8 + column % 64 / 32 * 2;
  return unit * kUnitBytes + column % kUnitCols / 64 * kHalfUnitBytes + row % kUnitRows / 16 * 512 + lane * 16 +
         word * 4;
}

// Where the scale of a row's group begins.
NVFP4_INLINE constexpr int64_t unit_scale_offset(int64_t row, int64_t group, int64_t k) {
  const int64_t unit = row / kUnitRows * ceil_div(k, kUnitCols) + group / 8;
  return unit * kUnitBytes + group % 8 / 4 * kHalfUnitBytes + kHalfUnitCodeBytes +
         swizzled_offset(row % kUnitRows, group % 4, 4, 32);
}

}  // namespace nvfp4
