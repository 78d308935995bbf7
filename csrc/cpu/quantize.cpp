// Quantisation: checks, the choice of global scale, threads, and the scales' layout. The numbers are in
// quantize_scalar.h.
#include "quantize.h"

#include <atomic>
#include <cmath>
#include <vector>

#include "nvfp4/cpu.h"
#include "quantize_arguments.h"
#include "quantize_scalar.h"
#include "swizzle.h"
#include "threads.h"

namespace nvfp4::cpu {
namespace {

constexpr int64_t kGrainElements = 32768;  // about 10 microseconds of work

int64_t grain(const QuantizeProblem& p) { return kGrainElements / (p.cols + 1) + 1; }

const void* row_of(const QuantizeProblem& p, int64_t row) {
  return static_cast<const unsigned char*>(p.x) + row * p.row_stride * dtype_bytes(p.dtype);
}

// The step of one row that every mode begins with: block maxima, and the largest finite magnitude.
float row_amax(const QuantizeKernels& kernels, const void* x, DType dtype, int64_t groups, float* amax) {
  const float largest = kernels.amax(x, dtype, groups, amax);
  if (std::isfinite(largest)) return largest;
  float finite = 0;
  for (int64_t g = 0; g < groups; ++g) {
    const float block = std::isfinite(amax[g]) ? amax[g] : block_finite_amax(x, dtype, g);
    finite = block > finite ? block : finite;
  }
  return finite;
}

float global_scale_of(float amax, Scheme scheme, DType dtype) {
  float scale = kScaleRange / amax;
  // compressed-tensors writes 2688 / amax in the tensor's dtype, which torch computes as a rounded reciprocal times
  // 2688.
  if (scheme == Scheme::kCompressedTensors) scale = round_to(dtype, round_to(dtype, 1.0f / amax) * kScaleRange);
  return std::isfinite(scale) ? scale : 1.0f;
}

float tensor_global_scale(const QuantizeProblem& p, const QuantizeKernels& kernels, int threads) {
  // Magnitudes are ordered as their bits are, and a maximum does not depend on who finds it first.
  std::atomic<uint32_t> largest{0};
  const int64_t groups = p.cols / kGroupSize;
  parallel_for(p.rows, threads, grain(p), [&](int64_t begin, int64_t end) {
    std::vector<float> amax(groups + kAmaxPadding);
    uint32_t mine = 0;
    for (int64_t row = begin; row < end; ++row) {
      const uint32_t bits = float_bits(row_amax(kernels, row_of(p, row), p.dtype, groups, amax.data()));
      mine = bits > mine ? bits : mine;
    }
    uint32_t seen = largest.load();
    while (mine > seen && !largest.compare_exchange_weak(seen, mine)) {
    }
  });
  return global_scale_of(bits_float(largest.load()), p.scheme, p.dtype);
}

}  // namespace

const QuantizeKernels& quantize_kernels(InstructionSet isa) {
  switch (isa) {
#if defined(NVFP4_WITH_AVX2)
    case InstructionSet::kAvx2:
      return quantize_kernels_avx2();
#endif
#if defined(NVFP4_WITH_AVX512)
    case InstructionSet::kAvx512:
    case InstructionSet::kAvx512Vnni:
    case InstructionSet::kAvx512Bf16:
      return quantize_kernels_avx512();
#endif
#if defined(NVFP4_WITH_NEON)
    case InstructionSet::kNeon:
      return quantize_kernels_neon();
#endif
    default:
      return quantize_kernels_portable();
  }
}

void check_quantize(const QuantizeProblem& p) {
  const char* const function = "quantize";
  check_dtype(function, "dtype", p.dtype);
  check_scale_layout(function, p.scale_layout);
  check(p.mode >= GlobalScale::kGivenTensor && p.mode <= GlobalScale::kComputeRow, function, ": mode: got code ",
        static_cast<int>(p.mode), ", wanted 0 (given), 1 (given per row), 2 (per tensor) or 3 (per row)");
  check(p.scheme == Scheme::kNvfp4 || p.scheme == Scheme::kCompressedTensors, function, ": scheme: got code ",
        static_cast<int>(p.scheme), ", wanted 0 (nvfp4) or 1 (compressed-tensors)");
  const bool per_row = p.mode == GlobalScale::kGivenRow || p.mode == GlobalScale::kComputeRow;
  check(
      p.scheme == Scheme::kNvfp4 || !per_row, function,
      ": scheme: got compressed-tensors with a global scale per row, wanted one per tensor, as its files hold; use the "
      "nvfp4 scheme for scales per row");
  check_size(function, "rows", p.rows);
  check_columns(function, "cols", p.cols);
  check_product(function, "rows * cols", p.rows, p.cols);
  check(p.row_stride >= 0, function, ": row_stride: got ", p.row_stride, ", wanted 0 or more; copy the tensor first");
  check_product(function, "rows * row_stride", p.rows, p.row_stride);
  const int64_t global_scales = per_row ? p.rows : 1;
  if (global_scales > 0) check_pointer(function, "global_scale", p.global_scale);
  if (p.mode == GlobalScale::kGivenTensor || p.mode == GlobalScale::kGivenRow) {
    check_global_scales(function, p.global_scale, global_scales);
  }
  if (p.rows == 0 || p.cols == 0) return;
  check_pointer(function, "x", p.x);
  check_pointer(function, "packed", p.packed);
  check_pointer(function, "scale", p.scale);
}

void quantize(const QuantizeProblem& p, int threads) {
  check_quantize(p);
  const int workers = resolve_threads(threads);
  const QuantizeKernels& kernels = quantize_kernels(current_isa());
  const bool swizzled = p.scale_layout == ScaleLayout::kSwizzled128x4;
  const bool per_row = p.mode == GlobalScale::kGivenRow || p.mode == GlobalScale::kComputeRow;
  const int64_t groups = p.cols / kGroupSize;
  if (p.mode == GlobalScale::kComputeTensor) p.global_scale[0] = tensor_global_scale(p, kernels, workers);
  if (swizzled) clear_swizzle_padding(p.rows, groups, p.scale);

  parallel_for(p.rows, workers, grain(p), [&](int64_t begin, int64_t end) {
    std::vector<float> amax(groups + kAmaxPadding);
    std::vector<uint8_t> plain(swizzled ? groups : 0);
    for (int64_t row = begin; row < end; ++row) {
      const void* x = row_of(p, row);
      const float largest = row_amax(kernels, x, p.dtype, groups, amax.data());
      float* const global_scale = p.global_scale + (per_row ? row : 0);
      if (p.mode == GlobalScale::kComputeRow) *global_scale = global_scale_of(largest, p.scheme, p.dtype);
      uint8_t* const scale = swizzled ? plain.data() : p.scale + row * groups;
      const void* next = row + 1 < end ? row_of(p, row + 1) : nullptr;
      kernels.codes(p.dtype,
                    {x, next, groups, amax.data(), *global_scale, p.scheme, p.packed + row * (p.cols / 2), scale});
      if (swizzled) swizzle_row(scale, row, groups, p.scale);
    }
  });
}

}  // namespace nvfp4::cpu
