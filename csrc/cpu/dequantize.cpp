#include "dequantize.h"

#include <vector>

#include "nvfp4/cpu.h"
#include "quantize_arguments.h"
#include "swizzle.h"
#include "threads.h"

namespace nvfp4::cpu {
namespace {

constexpr int64_t kGrainElements = 32768;  // about 10 microseconds of work

void check_dequantize(const DequantizeProblem& p) {
  const char* const function = "dequantize";
  check_dtype(function, "dtype", p.dtype);
  check_scale_layout(function, p.scale_layout);
  check_size(function, "rows", p.rows);
  check_columns(function, "cols", p.cols);
  check_product(function, "rows * cols", p.rows, p.cols);
  const int64_t global_scales = p.global_scale_per_row ? p.rows : 1;
  if (global_scales > 0) check_pointer(function, "global_scale", p.global_scale);
  check_global_scales(function, p.global_scale, global_scales);
  if (p.rows == 0 || p.cols == 0) return;
  check_pointer(function, "packed", p.packed);
  check_pointer(function, "scale", p.scale);
  check_pointer(function, "out", p.out);
}

}  // namespace

void dequantize_row_portable(DType dtype, const DequantizeRow& row) {
  for (int64_t g = 0; g < row.groups; ++g) dequantize_block(dtype, row, g);
}

DequantizeKernel dequantize_kernel(InstructionSet isa) {
  switch (isa) {
#if defined(NVFP4_WITH_AVX2)
    case InstructionSet::kAvx2:
    case InstructionSet::kAvx512:  // bound by the memory it writes, so wider vectors have nothing to add
    case InstructionSet::kAvx512Vnni:
    case InstructionSet::kAvx512Bf16:
      return dequantize_row_avx2;
#endif
#if defined(NVFP4_WITH_NEON)
    case InstructionSet::kNeon:
      return dequantize_row_neon;
#endif
    default:
      return dequantize_row_portable;
  }
}

void dequantize(const DequantizeProblem& p, int threads) {
  check_dequantize(p);
  const DequantizeKernel kernel = dequantize_kernel(current_isa());
  const bool swizzled = p.scale_layout == ScaleLayout::kSwizzled128x4;
  const int64_t groups = p.cols / kGroupSize;
  if (groups == 0) return;
  parallel_for(p.rows, resolve_threads(threads), kGrainElements / p.cols + 1, [&](int64_t begin, int64_t end) {
    std::vector<uint8_t> plain(swizzled ? groups : 0);
    for (int64_t row = begin; row < end; ++row) {
      const uint8_t* scale = p.scale + row * groups;
      if (swizzled) {
        unswizzle_row(p.scale, row, groups, plain.data());
        scale = plain.data();
      }
      const float global_scale = p.global_scale[p.global_scale_per_row ? row : 0];
      void* const out = static_cast<unsigned char*>(p.out) + row * p.cols * dtype_bytes(p.dtype);
      kernel(p.dtype, {p.packed + row * (p.cols / 2), scale, groups, global_scale, out});
    }
  });
}

}  // namespace nvfp4::cpu
