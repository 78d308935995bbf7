// Quantisation by a global scale that is known: given, or left as an amax by the kernel before. A thread a block.
#pragma once

#include "cuda/ptx/launch_control.cuh"
#include "cuda/quantize/arguments.cuh"

namespace nvfp4::cuda {

inline constexpr int kGivenThreads = 256;

// `source` says where a block's values come from, `sink` where its codes go.
template <typename Source, typename Sink>
__global__ void __launch_bounds__(kGivenThreads)
    quantize_given(const __grid_constant__ QuantizeArguments p, const __grid_constant__ Source source,
                   const __grid_constant__ Sink sink) {
  using T = typename Source::Value;
  ptx::launch_dependents();
  if (blockIdx.x >= p.data_grid) {
    return write_rest(p, int64_t{blockIdx.x - p.data_grid} * kGivenThreads + threadIdx.x);
  }
  const uint32_t index = blockIdx.x * kGivenThreads + threadIdx.x;
  const uint32_t row = p.by_groups.divide(index);
  if (row >= p.rows) return;
  const uint32_t group = index - row * p.by_groups.divisor;
  Block<T> block;
  source.load(block, row, group);
  float global_scale;
  if (p.amax != nullptr) {
    global_scale = global_scale_of<T>(__uint_as_float(*p.amax), p.scheme);
    if (index == 0 && p.global_scale != nullptr) *p.global_scale = global_scale;
  } else {
    global_scale = p.global_scale[p.per_row ? row : 0];
  }
  sink.store(p, block, block.amax_bits(), global_scale, row, group);
  if (p.per_row ? group == 0 : index == 0) store_factors(p.gemm, p.per_row ? row : 0, global_scale);
}

template <typename Source, typename Sink>
void launch_given(const Source& source, const Sink& sink, QuantizeArguments p, cudaStream_t stream) {
  p.data_grid = static_cast<unsigned>(ceil_div(p.rows * p.groups, kGivenThreads));
  launch_with_rest(quantize_given<Source, Sink>, p, kGivenThreads, stream, source, sink);
}

}  // namespace nvfp4::cuda
