// Argument checks shared by quantise, dequantise, repack and swizzle. Every message says what, got, wanted, what to do.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "nvfp4/errors.h"
#include "nvfp4/formats.h"
#include "nvfp4/layout.h"
#include "nvfp4/problem.h"

namespace nvfp4::cpu {

inline void check_size(const char* function, const char* name, int64_t value) {
  check(value >= 0, function, ": ", name, ": got ", value, ", wanted 0 or more");
}

// Leaves room for padding to whole blocks or tiles and for the bytes of the widest format, so that no size overflows an
// int64_t.
inline void check_product(const char* function, const char* name, int64_t a, int64_t b) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max() / 1024;
  check(a <= kMost && b <= kMost && (a == 0 || b <= kMost / a), function, ": ", name, ": got ", a, " * ", b,
        ", wanted at most ", kMost, "; check the shape");
}

inline void check_pointer(const char* function, const char* name, const void* pointer) {
  check(pointer != nullptr, function, ": ", name, ": got a null pointer with sizes above zero, wanted its data");
}

inline void check_columns(const char* function, const char* name, int64_t cols) {
  check_size(function, name, cols);
  const int64_t below = cols / kGroupSize * kGroupSize;
  const bool down = below > 0 && cols - below <= kGroupSize / 2;
  check(cols % kGroupSize == 0, function, ": ", name, ": got ", cols, ", wanted a multiple of ", kGroupSize,
        " (one block scale each); pad or slice to ", down ? below : below + kGroupSize, ", the nearest legal size");
}

inline void check_dtype(const char* function, const char* name, DType dtype) {
  check(dtype == DType::kFloat32 || dtype == DType::kFloat16 || dtype == DType::kBFloat16, function, ": ", name,
        ": got code ", static_cast<int>(dtype), ", wanted 0 (float32), 1 (float16) or 2 (bfloat16)");
}

inline void check_scale_layout(const char* function, ScaleLayout layout) {
  check(layout == ScaleLayout::kPlain || layout == ScaleLayout::kSwizzled128x4, function, ": scale_layout: got code ",
        static_cast<int>(layout), ", wanted 0 (plain) or 1 (128x4-swizzled)");
}

// Given global scales: finite and above zero.
inline void check_global_scales(const char* function, const float* scales, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    check(std::isfinite(scales[i]) && scales[i] > 0, function, ": global_scale[", i, "]: got ", scales[i],
          ", wanted a finite value above 0; use 2688 / amax, or let quantise compute it");
  }
}

}  // namespace nvfp4::cpu
