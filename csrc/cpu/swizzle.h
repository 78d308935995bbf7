// One row of block scales into and out of the 128x4 layout of layout.h.
#pragma once

#include <cstdint>

namespace nvfp4::cpu {

// Copies the `groups` scales of `row` to their places. The padding is not touched.
void swizzle_row(const uint8_t* plain, int64_t row, int64_t groups, uint8_t* swizzled);
void unswizzle_row(const uint8_t* swizzled, int64_t row, int64_t groups, uint8_t* plain);

// Writes zero to every padding byte: rows past `rows` and groups past `groups`.
void clear_swizzle_padding(int64_t rows, int64_t groups, uint8_t* swizzled);

}  // namespace nvfp4::cpu
