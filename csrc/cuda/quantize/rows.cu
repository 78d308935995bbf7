// Quantisation with a global scale a row, in one pass: a row's blocks stay in registers while its amax is found.
#include "cuda/quantize/arguments.cuh"

namespace nvfp4::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kMostThreads = 512;

// kTeam threads a row, kEach blocks a thread at once: all of a row's, or else the row is read again to be encoded.
template <typename T, bool kAligned, int kTeam, int kEach>
__global__ void __launch_bounds__(kTeam < 256 ? 256 : kTeam)
    quantize_rows(const __grid_constant__ QuantizeArguments p) {
  constexpr int kTeams = kTeam < 256 ? 256 / kTeam : 1;  // rows in a thread block
  __shared__ uint32_t of_warp[kTeam / kWarp];
  const int lane = threadIdx.x % kTeam;
  const int64_t row = int64_t{blockIdx.x} * kTeams + threadIdx.x / kTeam;
  if (row >= p.rows) return;  // whole warps, and whole thread blocks where they synchronise
  const T* x = static_cast<const T*>(p.x) + row * p.row_stride;
  Block<T> blocks[kEach];
  uint32_t amax[kEach];
  uint32_t largest = 0;
  const auto read = [&](int64_t first) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int64_t group = first + lane + i * kTeam;
      if (group < p.groups) blocks[i].template load<kAligned>(x + group * kGroupSize);
    }
  };
  const auto measure = [&](int64_t first) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (first + lane + i * kTeam >= p.groups) continue;
      amax[i] = blocks[i].amax_bits();
      largest = max(largest, amax[i] < kInfinityBits ? amax[i] : blocks[i].finite_amax_bits());
    }
  };
  const bool again = p.groups > kTeam * kEach;
  for (int64_t first = 0; first < p.groups; first += kTeam * kEach) {
    read(first);
    measure(first);
  }
  largest = __reduce_max_sync(0xFFFFFFFFu, largest);
  if constexpr (kTeam > kWarp) {
    if (lane % kWarp == 0) of_warp[lane / kWarp] = largest;
    __syncthreads();
    largest = __reduce_max_sync(0xFFFFFFFFu, of_warp[lane % (kTeam / kWarp)]);
  }
  const float global_scale = global_scale_of<T>(__uint_as_float(largest), p.scheme);
  if (lane == 0) p.global_scale[row] = global_scale;
  for (int64_t first = 0; first < p.groups; first += kTeam * kEach) {
    if (again) {
      read(first);
      measure(first);
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int64_t group = first + lane + i * kTeam;
      if (group < p.groups) store_block(p, blocks[i], amax[i], global_scale, row, group);
    }
  }
}

template <int kTeam, int kEach>
void launch(const QuantizeProblem& problem, const QuantizeArguments& p, cudaStream_t stream) {
  constexpr int kThreads = kTeam < 256 ? 256 : kTeam;
  const auto grid = static_cast<unsigned>(ceil_div(p.rows, kThreads / kTeam));
  with_element(problem, [&](auto element, auto aligned) {
    quantize_rows<decltype(element), decltype(aligned)::value, kTeam, kEach><<<grid, kThreads, 0, stream>>>(p);
  });
}

}  // namespace

void launch_quantize_rows(const QuantizeProblem& problem, const QuantizeArguments& p, cudaStream_t stream) {
  if (p.groups <= kWarp) {
    launch<kWarp, 1>(problem, p, stream);
  } else if (p.groups <= 2 * kWarp) {
    launch<kWarp, 2>(problem, p, stream);
  } else if (p.groups <= 256) {
    launch<256, 1>(problem, p, stream);
  } else if (p.groups <= kMostThreads) {
    launch<kMostThreads, 1>(problem, p, stream);
  } else {
    launch<kMostThreads, 3>(problem, p, stream);
  }
}

}  // namespace nvfp4::cuda
