// What the quantisation kernels are told, and what they share: where a block's bytes go.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cuda/launch.cuh"
#include "cuda/quantize/block.cuh"
#include "nvfp4/layout.h"

namespace nvfp4::cuda {

struct QuantizeArguments {
  const void* x;
  int64_t row_stride;  // in elements
  int64_t rows, groups;
  Divider by_groups;  // of 32-bit indices of blocks; a launch holds fewer than 2^31
  Scheme scheme;
  bool swizzled, per_row;
  uint32_t data_grid;    // thread blocks that quantise; those after them write the padding rows of swizzled scales
  const uint32_t* amax;  // one tensor's amax as bits, where it was just computed; then global_scale is written
  float* global_scale;   // [1] or [rows]
  uint8_t* packed;
  uint8_t* scale;
};

__device__ __forceinline__ int64_t scale_offset(const QuantizeArguments& p, int64_t row, int64_t group) {
  return p.swizzled ? swizzled_offset(row, group, p.groups) : row * p.groups + group;
}

// A block's codes and its scale; and, behind a row's last block, the zeros that pad swizzled scales to four groups.
template <typename T>
__device__ __forceinline__ void store_block(const QuantizeArguments& p, const Block<T>& block, uint32_t amax_bits,
                                            float global_scale, int64_t row, int64_t group) {
  const uint32_t byte = block_scale<T>(amax_bits, global_scale, p.scheme);
  reinterpret_cast<uint2*>(p.packed)[row * p.groups + group] =
      block_codes(block, amax_bits, byte, global_scale, p.scheme);
  p.scale[scale_offset(p, row, group)] = static_cast<uint8_t>(byte);
  if (p.swizzled && group + 1 == p.groups) {
    for (int64_t pad = p.groups; pad % 4 != 0; ++pad) p.scale[swizzled_offset(row, pad, p.groups)] = 0;
  }
}

// Padding rows come in units of 16 bytes of a 128x4 atom: rows r, r + 32, r + 64 and r + 96 of four groups.
inline int64_t padding_units(const QuantizeArguments& p) {
  return p.swizzled && p.rows % 128 != 0 ? ceil_div(p.groups, 4) * 32 : 0;
}

__device__ __forceinline__ void write_padding(const QuantizeArguments& p, int64_t unit) {
  const int64_t atoms = ceil_div(p.groups, 4);
  if (unit >= atoms * 32) return;
  const int64_t rows = p.rows % 128;
  auto* words = reinterpret_cast<uint32_t*>(p.scale + (p.rows / 128 * atoms + unit / 32) * 512 + unit % 32 * 16);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (unit % 32 + 32 * i >= rows) words[i] = 0;
  }
}

// Launches `kernel` with the thread blocks that p.data_grid counts and as many more as the padding needs.
template <typename Kernel>
void launch_with_padding(Kernel kernel, const QuantizeArguments& p, int threads, cudaStream_t stream) {
  const auto grid = p.data_grid + static_cast<unsigned>(ceil_div(padding_units(p), threads));
  kernel<<<grid, threads, 0, stream>>>(p);
}

// Whether every block begins at a multiple of 16 bytes.
bool is_aligned(const QuantizeProblem& p);

// One launcher a kind of global scale.
void launch_quantize_given(const QuantizeProblem& problem, QuantizeArguments p, cudaStream_t stream);
void launch_quantize_rows(const QuantizeProblem& problem, QuantizeArguments p, cudaStream_t stream);
void launch_tensor_amax(const QuantizeProblem& problem, uint32_t* amax, cudaStream_t stream);

// Calls run(T(), aligned) for the element type at hand, where `aligned` is std::true_type or std::false_type.
template <typename Run>
void with_element(const QuantizeProblem& problem, Run run) {
  const auto of_type = [&](auto element) {
    if (is_aligned(problem)) {
      run(element, std::true_type());
    } else {
      run(element, std::false_type());
    }
  };
  switch (problem.dtype) {
    case DType::kFloat32:
      return of_type(float());
    case DType::kFloat16:
      return of_type(__half());
    case DType::kBFloat16:
      return of_type(__nv_bfloat16());
  }
}

}  // namespace nvfp4::cuda
