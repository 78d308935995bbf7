// Tensor maps of the tokens' codes and scales, encoded by the driver. The driver is asked for the function at run time,
// so that the library links to no driver and loads on machines without one.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace nvfp4::cuda::sm120 {

enum class Swizzle { kNone, k64Bytes };

// A row-major matrix of `rows` by `width` elements of 1 or 4 bytes, rows `pitch` bytes apart, read in boxes.
CUtensorMap matrix_map(const void* data, int element_bytes, int64_t width, int64_t rows, int64_t pitch, int box_width,
                       int box_rows, Swizzle swizzle);

}  // namespace nvfp4::cuda::sm120
