// Quantisation by a global scale that is known: given, or left as an amax by the kernel before. A thread a block.
#pragma once

#include "cuda/ptx/launch_control.cuh"
#include "cuda/quantize/arguments.cuh"

namespace nvfp4::cuda {

inline constexpr int kGivenThreads = 256;

// Threads that an SM can hold.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1200
inline constexpr int kMostThreads = 1536;
#else
inline constexpr int kMostThreads = 2048;
#endif

// Thread blocks of them, to bound registers: all where little is kept, so that more is on its way from memory.
template <typename Source, typename Sink>
inline constexpr int kLeastGivenBlocks = sizeof(typename Source::Value) == 4 ? 4
                                         : Source::kLight && Sink::kLight    ? kMostThreads / kGivenThreads
                                                                             : 6;

__device__ __forceinline__ Place place_by_rows(const QuantizeArguments& p, uint32_t index) {
  const uint32_t row = p.by_groups.divide(index);
  return Place(p, row, index - row * p.by_groups.divisor);
}

// A warp has the blocks whose scales are 32 neighbours in memory: of two rows of each quarter of an atom, four groups.
__device__ __forceinline__ Place place_by_sectors(const QuantizeArguments& p, uint32_t index) {
  const uint32_t sector_of_tensor = index / 32, byte = index % 32;
  const uint32_t sectors = p.by_atoms.divide(sector_of_tensor), atom_column = sector_of_tensor - sectors * p.row_atoms;
  const uint32_t shift = p.atom_shift - 3, atom_row = sectors >> shift, sector = sectors & ((1u << shift) - 1);
  const uint32_t row = (atom_row << p.atom_shift) + (byte / 4 % 4 << (shift + 1)) + 2 * sector + byte / 16;
  const uint32_t atom = atom_row * p.row_atoms + atom_column;
  return Place(row, 4 * atom_column + byte % 4, (((atom << shift) + sector) << 5) + byte);
}

// `source` says where a block's values come from, `sink` where its codes go.
template <typename Source, typename Sink>
__global__ void __launch_bounds__(kGivenThreads, kLeastGivenBlocks<Source, Sink>)
    quantize_given(const __grid_constant__ QuantizeArguments p, const __grid_constant__ Source source,
                   const __grid_constant__ Sink sink) {
  using T = typename Source::Value;
  ptx::launch_dependents();
  if (blockIdx.x >= p.data_grid) {
    return write_rest(p, int64_t{blockIdx.x - p.data_grid} * kGivenThreads + threadIdx.x);
  }
  const uint32_t index = blockIdx.x * kGivenThreads + threadIdx.x;
  const Place at = p.by_sectors ? place_by_sectors(p, index) : place_by_rows(p, index);
  if (at.row >= p.rows || at.group >= p.by_groups.divisor) {
    if (p.by_sectors && at.row >> p.atom_shift << p.atom_shift < p.rows) p.scale[at.scale] = 0;
    return;
  }
  Block<T> block;
  source.load(block, at.row, at.group);
  float global_scale;
  if (p.amax != nullptr) {
    global_scale = global_scale_of<T>(__uint_as_float(*p.amax), p.scheme);
    if (index == 0 && p.global_scale != nullptr) *p.global_scale = global_scale;
  } else {
    global_scale = p.global_scale[p.per_row ? at.row : 0];
  }
  sink.store(p, block, block.amax_bits(), global_scale, at);
  if (!wants_factors(p.gemm)) return;
  if (p.per_row ? at.group == 0 : index == 0) store_factors(p.gemm, p.per_row ? at.row : 0, global_scale);
}

template <typename Source, typename Sink>
void launch_given(const Source& source, const Sink& sink, QuantizeArguments p, cudaStream_t stream) {
  const int64_t atom_rows = int64_t{1} << p.atom_shift;
  // A few rows would leave most of a warp's blocks empty.
  p.by_sectors = p.atom_shift != 0 && p.rows >= atom_rows;
  p.by_atoms = Divider(p.row_atoms);
  const int64_t blocks = p.by_sectors ? round_up(p.rows, atom_rows) * p.row_atoms * 4 : p.rows * p.groups;
  p.data_grid = static_cast<unsigned>(ceil_div(blocks, kGivenThreads));
  launch_with_rest(quantize_given<Source, Sink>, p, kGivenThreads, stream, source, sink);
}

}  // namespace nvfp4::cuda
