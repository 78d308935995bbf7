// Operands into the layouts the matrix product reads. A thread a word, or a byte where words are not aligned.
#include "cuda/factors.cuh"
#include "cuda/launch.cuh"
#include "cuda/ptx/launch_control.cuh"
#include "nvfp4/cuda.h"

namespace nvfp4::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kCodeWords = static_cast<int>(kHalfUnitCodeBytes) / 4, kHalfWords = static_cast<int>(kHalfUnitBytes) / 4;

__global__ void __launch_bounds__(kThreads)
    write_units(const uint8_t* packed, const uint8_t* scale, int64_t n, int64_t k, int64_t words, uint32_t* units) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= words) return;
  const int64_t half = index / kHalfWords, steps = ceil_div(k, kUnitCols) * 2;
  const int word = static_cast<int>(index - half * kHalfWords);
  const int64_t first_row = half / steps * kUnitRows, first_column = half % steps * 64;
  uint32_t value = 0;
  if (word < kCodeWords) {
    const int lane = word / 4 % 32, part = word % 4;
    const int64_t row = first_row + word / 128 * 16 + lane / 4 + part % 2 * 8;
    const int64_t column = first_column + lane % 4 * 8 + part / 2 * 32;
    if (row < n && column < k) value = *reinterpret_cast<const uint32_t*>(packed + row * (k / 2) + column / 2);
  } else {
    const int lane = (word - kCodeWords) % 32;
    const int64_t row = first_row + (word - kCodeWords) / 32 * 32 + lane % 4 * 8 + lane / 4;
    const int64_t groups = k / kGroupSize, group = first_column / kGroupSize;
    for (int i = 0; i < 4; ++i) {
      if (row < n && group + i < groups) value |= uint32_t{scale[row * groups + group + i]} << 8 * i;
    }
  }
  units[index] = value;
}

__global__ void __launch_bounds__(kThreads)
    read_unit_codes(const uint8_t* units, int64_t k, int64_t words, uint32_t* packed) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= words) return;
  const int64_t row = index / (k / 8), column = index % (k / 8) * 8;
  packed[index] = *reinterpret_cast<const uint32_t*>(units + unit_word_offset(row, column, k));
}

__global__ void __launch_bounds__(kThreads)
    read_unit_scales(const uint8_t* units, int64_t k, int64_t bytes, uint8_t* scale) {
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= bytes) return;
  const int64_t groups = k / kGroupSize, row = index / groups;
  scale[index] = units[unit_scale_offset(row, index - row * groups, k)];
}

// Threads [0, bytes) write the scales and their padding, the next the factors, the next the zeros.
__global__ void __launch_bounds__(kThreads)
    write_tokens(const uint8_t* scale, int64_t rows, int64_t groups, int64_t bytes, const float* global_scale,
                 bool per_row, uint8_t* swizzled, GemmPreparation gemm) {
  ptx::launch_dependents();
  int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index < bytes) {
    const int64_t padded = round_up(groups, 4), row = index / padded, group = index - row * padded;
    swizzled[swizzled_offset(row, group, groups, 32)] = row < rows && group < groups ? scale[row * groups + group] : 0;
    return;
  }
  index -= bytes;
  const int64_t factors = per_row ? rows : 1;
  if (index < factors) {
    return store_factors(gemm, index, global_scale[index]);
  }
  index -= factors;
  if (index < gemm.zero_count) gemm.zeros[index] = 0;
}

unsigned grid_of(int64_t threads, const char* what) {
  const int64_t grid = ceil_div(threads, kThreads);
  check(grid < int64_t{1} << 31, what, ": got ", threads, " elements of work, wanted fewer than 2^39");
  return static_cast<unsigned>(grid);
}

void check_weight(const char* what, int64_t n, int64_t k) {
  check(n >= 0 && k >= 0 && k % kGroupSize == 0, what, ": got n = ", n, " and k = ", k,
        ", wanted k in multiples of 16");
}

}  // namespace

void to_units(const uint8_t* packed, const uint8_t* scale, int64_t n, int64_t k, uint8_t* units, Stream stream) {
  check_weight("to_units", n, k);
  const int64_t words = units_bytes(n, k) / 4;
  if (words == 0) return;
  check(packed != nullptr && scale != nullptr && units != nullptr, "to_units: a pointer is null");
  write_units<<<grid_of(words, "to_units"), kThreads, 0, native(stream)>>>(packed, scale, n, k, words,
                                                                           reinterpret_cast<uint32_t*>(units));
  check_cuda(cudaGetLastError(), "to_units");
}

void from_units(const uint8_t* units, int64_t n, int64_t k, uint8_t* packed, uint8_t* scale, Stream stream) {
  check_weight("from_units", n, k);
  const int64_t words = n * (k / 8), bytes = n * (k / kGroupSize);
  if (words == 0) return;
  check(packed != nullptr && scale != nullptr && units != nullptr, "from_units: a pointer is null");
  read_unit_codes<<<grid_of(words, "from_units"), kThreads, 0, native(stream)>>>(units, k, words,
                                                                                 reinterpret_cast<uint32_t*>(packed));
  read_unit_scales<<<grid_of(bytes, "from_units"), kThreads, 0, native(stream)>>>(units, k, bytes, scale);
  check_cuda(cudaGetLastError(), "from_units");
}

void prepare_tokens(const uint8_t* scale, int64_t rows, int64_t groups, const float* global_scale, bool per_row,
                    uint8_t* swizzled, const GemmPreparation& gemm, Stream stream) {
  check(rows >= 0 && groups >= 0, "prepare_tokens: got ", rows, " rows of ", groups, " groups, wanted 0 or more");
  if (rows == 0 || groups == 0) return;
  check(scale != nullptr && swizzled != nullptr && global_scale != nullptr, "prepare_tokens: a pointer is null");
  const int64_t bytes = swizzled_bytes(rows, groups, 32), factors = per_row ? rows : 1;
  write_tokens<<<grid_of(bytes + factors + gemm.zero_count, "prepare_tokens"), kThreads, 0, native(stream)>>>(
      scale, rows, groups, bytes, global_scale, per_row, swizzled, gemm);
  check_cuda(cudaGetLastError(), "prepare_tokens");
}

}  // namespace nvfp4::cuda
