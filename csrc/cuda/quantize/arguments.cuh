// What the quantisation kernels are told, and what they share: where a block's bytes go.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cuda/factors.cuh"
#include "cuda/launch.cuh"
#include "cuda/quantize/block.cuh"
#include "nvfp4/layout.h"

namespace nvfp4::cuda {

struct QuantizeArguments {
  int64_t rows, groups;
  Divider by_groups;  // of 32-bit indices of blocks and of scales; a launch holds fewer than 2^31
  Scheme scheme;
  uint32_t atom_shift;  // 7 or 5 where scales are swizzled, in atoms of 128 or 32 rows; 0: plain
  uint32_t row_atoms;   // atoms beside one another
  Divider by_atoms;     // by that number
  bool by_sectors;      // blocks go to threads in the order of swizzled scales, padding among them
  bool per_row;
  bool computed;         // the global scale, of every row from its values
  uint32_t part_shift;   // 1 << part_shift thread blocks a row: each measures all of it and encodes a part
  uint32_t data_grid;    // thread blocks that quantise; those after them write the rest
  int64_t padding;       // units of it
  const uint32_t* amax;  // one tensor's amax as bits, where it was just computed; then global_scale is written
  float* global_scale;   // [1] or [rows]; null where nobody wants a computed one
  uint8_t* packed;
  int64_t packed_stride;  // in blocks
  uint8_t* scale;
  GemmPreparation gemm;
};

// As nvfp4::swizzled_offset, in 32 bits.
__device__ __forceinline__ uint32_t scale_offset(const QuantizeArguments& p, uint32_t row, uint32_t group) {
  if (p.atom_shift == 0) return row * p.by_groups.divisor + group;
  const uint32_t quarter = p.atom_shift - 2;  // its rows, as a power of two
  const uint32_t atom = (row >> p.atom_shift) * p.row_atoms + group / 4;
  return (atom << p.atom_shift) * 4 + (row & ((1u << quarter) - 1)) * 16 + (row >> quarter) % 4 * 4 + group % 4;
}

// A block of a tensor, and where its scale goes.
struct Place {
  uint32_t row, group, scale;

  __device__ __forceinline__ Place(uint32_t row, uint32_t group, uint32_t scale)
      : row(row), group(group), scale(scale) {}
  __device__ __forceinline__ Place(const QuantizeArguments& p, uint32_t row, uint32_t group)
      : Place(row, group, scale_offset(p, row, group)) {}
};

// Where a block's codes and its scale go; and, behind a row's last block, the zeros that pad swizzled scales to four
// groups.
struct ToCodes {
  static constexpr bool kLight = true;  // little is kept in registers

  template <typename T>
  __device__ __forceinline__ void store(const QuantizeArguments& p, const Block<T>& block, uint32_t amax_bits,
                                        float global_scale, const Place& at) const {
    BlockScale scale;
    reinterpret_cast<uint2*>(p.packed)[at.row * p.packed_stride + at.group] =
        encode(block, amax_bits, global_scale, p.scheme, scale);
    p.scale[at.scale] = static_cast<uint8_t>(scale.byte);
    if (p.atom_shift != 0 && !p.by_sectors && at.group + 1 == p.by_groups.divisor) {
      for (uint32_t pad = at.group + 1; pad % 4 != 0; ++pad) p.scale[scale_offset(p, at.row, pad)] = 0;
    }
  }
};

// Padding rows that no thread with data writes come in units of 16 bytes of an atom: a row of each of its quarters,
// four groups each.
inline int64_t padding_units(const QuantizeArguments& p) {
  const int64_t atom_rows = int64_t{1} << p.atom_shift;  // 1 where scales are plain, which has no padding
  return p.rows % atom_rows != 0 && !p.by_sectors ? p.row_atoms * (atom_rows / 4) : 0;
}

// What the thread blocks behind those with data do: padding rows, and the zeros that a matrix product counts from.
__device__ __forceinline__ void write_rest(const QuantizeArguments& p, int64_t unit) {
  if (unit < p.padding) {
    const uint32_t shift = p.atom_shift - 2, quarter = 1u << shift;
    const int64_t full = p.rows >> p.atom_shift, rows = p.rows - (full << p.atom_shift);
    const int64_t atom = full * p.row_atoms + (unit >> shift), first = unit & (quarter - 1);
    auto* words = reinterpret_cast<uint32_t*>(p.scale + ((atom << shift) + first) * 16);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (first + quarter * i >= rows) words[i] = 0;
    }
  } else if (unit - p.padding < p.gemm.zero_count) {
    p.gemm.zeros[unit - p.padding] = 0;
  }
}

// Launches `kernel` with the thread blocks that p.data_grid counts and as many more as the rest needs.
template <typename Kernel, typename... More>
void launch_with_rest(Kernel kernel, QuantizeArguments p, int threads, cudaStream_t stream, More... more) {
  p.padding = padding_units(p);
  const auto grid = p.data_grid + static_cast<unsigned>(ceil_div(p.padding + p.gemm.zero_count, threads));
  kernel<<<grid, threads, 0, stream>>>(p, more...);
}

// Whether every row of x begins at a multiple of 16 bytes.
bool is_aligned(const QuantizeProblem& p);

// What is launched for the rows of a problem: x by a global scale that is known or by one a row that is computed, a
// tensor's amax, a gated activation, a norm, and values in the place of codes.
void launch_quantize_given(const QuantizeProblem& problem, QuantizeArguments p, cudaStream_t stream);
void launch_quantize_rows(const QuantizeProblem& problem, QuantizeArguments p, cudaStream_t stream);
void launch_tensor_amax(const QuantizeProblem& problem, uint32_t* amax, cudaStream_t stream);
void launch_quantize_gated(const QuantizeProblem& problem, QuantizeArguments p, cudaStream_t stream);
void launch_quantize_norm(const QuantizeProblem& problem, QuantizeArguments p, cudaStream_t stream);
void launch_quantize_dequantize(const QuantizeProblem& problem, QuantizeArguments p, cudaStream_t stream);

// Calls run(T()) for the element type at hand.
template <typename Run>
void with_dtype(DType dtype, Run run) {
  switch (dtype) {
    case DType::kFloat32:
      return run(float());
    case DType::kFloat16:
      return run(__half());
    case DType::kBFloat16:
      return run(__nv_bfloat16());
  }
}

// Calls run(T(), aligned), where `aligned` is std::true_type or std::false_type.
template <typename Run>
void with_element(const QuantizeProblem& problem, Run run) {
  with_dtype(problem.dtype, [&](auto element) {
    if (is_aligned(problem)) {
      run(element, std::true_type());
    } else {
      run(element, std::false_type());
    }
  });
}

}  // namespace nvfp4::cuda
