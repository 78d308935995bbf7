// Codes and scales to values, and block scales between layouts. A thread a block, or a byte.
#include <algorithm>

#include "cuda/quantize/arguments.cuh"
#include "cuda/quantize/values.cuh"

namespace nvfp4::cuda {
namespace {

constexpr int kThreads = 256;

// x = q * (s / G) in float32, then one rounding.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    dequantize_blocks(const __grid_constant__ DequantizeProblem p, int64_t groups) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= p.rows * groups) return;
  const int64_t row = index / groups, group = index - row * groups;
  const bool swizzled = p.scale_layout == ScaleLayout::kSwizzled128x4;
  const uint8_t byte = p.scale[swizzled ? swizzled_offset(row, group, groups) : index];
  const float step = __fdiv_rn(e4m3_to_float(byte), p.global_scale[p.global_scale_per_row ? row : 0]);
  const uint2 codes = reinterpret_cast<const uint2*>(p.packed)[index];
  write_decoded(static_cast<T*>(p.out) + index * kGroupSize, codes, step);
}

// kToSwizzled: every byte of the swizzled buffer is written, padding with zeros. Otherwise every byte of the plain one.
template <bool kToSwizzled>
__global__ void __launch_bounds__(kThreads)
    reorder_scales(const uint8_t* from, int64_t rows, int64_t groups, uint8_t* to) {
  const int64_t columns = kToSwizzled ? round_up(groups, 4) : groups;
  const int64_t all = (kToSwizzled ? round_up(rows, 128) : rows) * columns;
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= all) return;
  const int64_t row = index / columns, group = index - row * columns;
  const int64_t swizzled = swizzled_offset(row, group, groups);
  if constexpr (kToSwizzled) {
    to[swizzled] = row < rows && group < groups ? from[row * groups + group] : 0;
  } else {
    to[index] = from[swizzled];
  }
}

unsigned grid_of(int64_t threads, const char* what) {
  const int64_t grid = ceil_div(threads, kThreads);
  check(grid < int64_t{1} << 31, what, ": got ", threads, " elements of work, wanted fewer than 2^39");
  return static_cast<unsigned>(grid);
}

void check_scales(const char* what, const void* from, int64_t rows, int64_t groups, const void* to) {
  check(rows >= 0 && groups >= 0, what, ": got ", rows, " rows of ", groups, " groups, wanted 0 or more");
  check((from != nullptr && to != nullptr) || rows == 0 || groups == 0, what, ": a pointer is null");
}

}  // namespace

void dequantize(const DequantizeProblem& p, Stream stream) {
  check(p.rows >= 0 && p.cols >= 0 && p.cols % kGroupSize == 0, "dequantize: got ", p.rows, " x ", p.cols,
        ", wanted columns in multiples of 16");
  if (p.rows == 0 || p.cols == 0) return;
  check(p.packed != nullptr && p.scale != nullptr && p.global_scale != nullptr && p.out != nullptr,
        "dequantize: a pointer is null");
  const int64_t groups = p.cols / kGroupSize;
  const unsigned grid = grid_of(p.rows * groups, "dequantize");
  switch (p.dtype) {
    case DType::kFloat32:
      dequantize_blocks<float><<<grid, kThreads, 0, native(stream)>>>(p, groups);
      break;
    case DType::kFloat16:
      dequantize_blocks<__half><<<grid, kThreads, 0, native(stream)>>>(p, groups);
      break;
    case DType::kBFloat16:
      dequantize_blocks<__nv_bfloat16><<<grid, kThreads, 0, native(stream)>>>(p, groups);
      break;
  }
  check_cuda(cudaGetLastError(), "dequantize");
}

void swizzle_scales(const uint8_t* plain, int64_t rows, int64_t groups, uint8_t* swizzled, Stream stream) {
  check_scales("swizzle_scales", plain, rows, groups, swizzled);
  const int64_t bytes = swizzled_bytes(rows, groups);
  if (bytes == 0) return;
  const unsigned grid = grid_of(bytes, "swizzle_scales");
  reorder_scales<true><<<grid, kThreads, 0, native(stream)>>>(plain, rows, groups, swizzled);
  check_cuda(cudaGetLastError(), "swizzle_scales");
}

void unswizzle_scales(const uint8_t* swizzled, int64_t rows, int64_t groups, uint8_t* plain, Stream stream) {
  check_scales("unswizzle_scales", swizzled, rows, groups, plain);
  if (rows * groups == 0) return;
  const unsigned grid = grid_of(rows * groups, "unswizzle_scales");
  reorder_scales<false><<<grid, kThreads, 0, native(stream)>>>(swizzled, rows, groups, plain);
  check_cuda(cudaGetLastError(), "unswizzle_scales");
}

}  // namespace nvfp4::cuda
