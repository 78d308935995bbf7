#include "swizzle.h"

#include <cstring>

#include "nvfp4/cpu.h"
#include "nvfp4/layout.h"
#include "quantize_arguments.h"

namespace nvfp4::cpu {
namespace {

// Four neighbouring groups of a row are four neighbouring bytes, one every 512.
constexpr int64_t kRun = 4;
constexpr int64_t kBlockRows = 128;
constexpr int64_t kBlockBytes = kBlockRows * kRun;

void check_scales(const char* function, const uint8_t* plain, int64_t rows, int64_t groups, const uint8_t* swizzled) {
  check_size(function, "rows", rows);
  check_size(function, "groups", groups);
  check_product(function, "rows * groups", rows, groups);
  if (rows == 0 || groups == 0) return;
  check_pointer(function, "plain", plain);
  check_pointer(function, "swizzled", swizzled);
}

}  // namespace

void swizzle_row(const uint8_t* plain, int64_t row, int64_t groups, uint8_t* swizzled) {
  uint8_t* to = swizzled + swizzled_offset(row, 0, groups);
  int64_t g = 0;
  for (; g + kRun <= groups; g += kRun, to += kBlockBytes) memcpy(to, plain + g, kRun);
  if (g < groups) memcpy(to, plain + g, groups - g);
}

void unswizzle_row(const uint8_t* swizzled, int64_t row, int64_t groups, uint8_t* plain) {
  const uint8_t* from = swizzled + swizzled_offset(row, 0, groups);
  int64_t g = 0;
  for (; g + kRun <= groups; g += kRun, from += kBlockBytes) memcpy(plain + g, from, kRun);
  if (g < groups) memcpy(plain + g, from, groups - g);
}

void clear_swizzle_padding(int64_t rows, int64_t groups, uint8_t* swizzled) {
  if (rows == 0 || groups == 0) return;
  const int64_t columns = ceil_div(groups, kRun);
  const int64_t block_rows = ceil_div(rows, kBlockRows);
  if (rows % kBlockRows != 0) {
    // The last 128 rows hold real ones too, which are written afterwards.
    memset(swizzled + (block_rows - 1) * columns * kBlockBytes, 0, columns * kBlockBytes);
  }
  if (groups % kRun != 0) {
    for (int64_t r = 0; r < block_rows; ++r) memset(swizzled + ((r + 1) * columns - 1) * kBlockBytes, 0, kBlockBytes);
  }
}

void swizzle_scales(const uint8_t* plain, int64_t rows, int64_t groups, uint8_t* swizzled) {
  check_scales("swizzle_scales", plain, rows, groups, swizzled);
  clear_swizzle_padding(rows, groups, swizzled);
  for (int64_t row = 0; row < rows; ++row) swizzle_row(plain + row * groups, row, groups, swizzled);
}

void unswizzle_scales(const uint8_t* swizzled, int64_t rows, int64_t groups, uint8_t* plain) {
  check_scales("unswizzle_scales", plain, rows, groups, swizzled);
  for (int64_t row = 0; row < rows; ++row) unswizzle_row(swizzled, row, groups, plain + row * groups);
}

}  // namespace nvfp4::cpu
