// Quantisation with a global scale a row, in one pass: a row's blocks stay in registers while its amax is found.
#include "cuda/ptx/launch_control.cuh"
#include "cuda/quantize/arguments.cuh"

namespace nvfp4::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kMostThreads = 512;
constexpr int kWarpsTogether = 8;

// A row has a warp (kWarpRow) or a thread block, and a thread kEach of its blocks at once: all of the row's together,
// or else the row is read again to be encoded.
template <typename T, bool kAligned, bool kWarpRow, int kEach>
__global__ void __launch_bounds__(kMostThreads, kEach > 2 ? 2 : 3)
    quantize_rows(const __grid_constant__ QuantizeArguments p) {
  __shared__ uint32_t of_warp[kMostThreads / kWarp];
  ptx::launch_dependents();
  if (blockIdx.x >= p.data_grid) {
    return write_rest(p, int64_t{blockIdx.x - p.data_grid} * blockDim.x + threadIdx.x);
  }
  const int team = kWarpRow ? kWarp : static_cast<int>(blockDim.x);
  const int lane = static_cast<int>(threadIdx.x) % team;
  const int64_t row = kWarpRow ? int64_t{blockIdx.x} * kWarpsTogether + threadIdx.x / kWarp : blockIdx.x;
  if (row >= p.rows) return;  // a whole warp; thread blocks that synchronise have a row each
  const T* x = static_cast<const T*>(p.x) + row * p.row_stride;
  Block<T> blocks[kEach];
  uint32_t amax[kEach];
  uint32_t largest = 0;
  const auto read = [&](int64_t first) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int64_t group = first + lane + i * team;
      if (group < p.groups) blocks[i].template load<kAligned>(x + group * kGroupSize);
    }
  };
  const auto measure = [&](int64_t first) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (first + lane + i * team >= p.groups) continue;
      amax[i] = blocks[i].amax_bits();
      largest = max(largest, amax[i] < kInfinityBits ? amax[i] : blocks[i].finite_amax_bits());
    }
  };
  const bool again = p.groups > team * kEach;
  for (int64_t first = 0; first < p.groups; first += team * kEach) {
    read(first);
    measure(first);
  }
  largest = __reduce_max_sync(0xFFFFFFFFu, largest);
  if constexpr (!kWarpRow) {
    if (lane % kWarp == 0) of_warp[lane / kWarp] = largest;
    __syncthreads();
    const int warps = team / kWarp;
    largest = __reduce_max_sync(0xFFFFFFFFu, lane % kWarp < warps ? of_warp[lane % kWarp] : 0);
  }
  const float global_scale = global_scale_of<T>(__uint_as_float(largest), p.scheme);
  if (lane == 0) {
    p.global_scale[row] = global_scale;
    store_factors(p.gemm, row, global_scale);
  }
  for (int64_t first = 0; first < p.groups; first += team * kEach) {
    if (again) {
      read(first);
      measure(first);
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int64_t group = first + lane + i * team;
      if (group < p.groups) store_block(p, blocks[i], amax[i], global_scale, row, group);
    }
  }
}

template <bool kWarpRow, int kEach>
void launch(const QuantizeProblem& problem, QuantizeArguments p, cudaStream_t stream) {
  const int64_t team = round_up(ceil_div(p.groups, kEach), kWarp);
  const int threads = kWarpRow ? kWarpsTogether * kWarp : static_cast<int>(std::min<int64_t>(team, kMostThreads));
  p.data_grid = static_cast<unsigned>(kWarpRow ? ceil_div(p.rows, kWarpsTogether) : p.rows);
  with_element(problem, [&](auto element, auto aligned) {
    using T = decltype(element);
    launch_with_rest(quantize_rows<T, decltype(aligned)::value, kWarpRow, kEach>, p, threads, stream);
  });
}

}  // namespace

void launch_quantize_rows(const QuantizeProblem& problem, QuantizeArguments p, cudaStream_t stream) {
  if (p.groups <= kWarp) {
    launch<true, 1>(problem, p, stream);
  } else if (p.groups <= 2 * kWarp) {
    launch<true, 2>(problem, p, stream);
  } else if (p.groups <= 2 * kMostThreads) {
    launch<false, 2>(problem, p, stream);
  } else {
    launch<false, 4>(problem, p, stream);
  }
}

}  // namespace nvfp4::cuda
