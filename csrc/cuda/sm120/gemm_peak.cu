// The rooflines of the matrix product, measured: its instruction from registers alone, and memory read by bulk copies.
#include "cuda/launch.cuh"
#include "cuda/ptx/copy.cuh"
#include "cuda/ptx/mbarrier.cuh"
#include "cuda/ptx/mma.cuh"
#include "cuda/sm120/peak.h"

namespace nvfp4::cuda::sm120 {
namespace {

constexpr int kRows = 4, kTokens = 8, kThreads = 256;

template <int kRow = 0, int kToken = 0>
__device__ __forceinline__ void multiply_all(float (&sums)[kRows][kTokens][4], const uint32_t (&a)[kRows][4],
                                             const uint32_t (&b)[kTokens][2], const uint32_t (&scales)[4]) {
  if constexpr (kRow < kRows) {
    ptx::mma_m16n8k64<kRow % 2, kToken % 4>(sums[kRow][kToken], a[kRow], b[kToken], scales[kRow / 2],
                                            scales[2 + kToken / 4]);
    multiply_all<kToken + 1 < kTokens ? kRow : kRow + 1, (kToken + 1) % kTokens>(sums, a, b, scales);
  }
}

// What one step of 64 columns does to the registers of a warp of the 256x128x128 tile, and nothing else.
__global__ void __launch_bounds__(kThreads, 1) mma_loop(int steps, const uint32_t* operands, float* out) {
  uint32_t a[kRows][4], b[kTokens][2], scales[4];
  float sums[kRows][kTokens][4] = {};
#pragma unroll
  for (int i = 0; i < kRows * 4; ++i) a[i / 4][i % 4] = operands[threadIdx.x + i];
#pragma unroll
  for (int i = 0; i < kTokens * 2; ++i) b[i / 2][i % 2] = operands[threadIdx.x + 16 + i];
#pragma unroll
  for (int i = 0; i < 4; ++i) scales[i] = operands[threadIdx.x + 32 + i] & 0x3F3F3F3Fu;
#pragma unroll 1
  for (int step = 0; step < steps; ++step) multiply_all(sums, a, b, scales);
  float total = 0;
#pragma unroll
  for (int i = 0; i < kRows * kTokens * 4; ++i) total += sums[i / (kTokens * 4)][i / 4 % kTokens][i % 4];
  out[blockIdx.x * kThreads + threadIdx.x] = total;
}

// Four stages of 9,216 bytes a thread block, as the streaming product has them; every warp reads every word.
constexpr int kStages = 4, kStageBytes = 9216, kReaders = 128;

__global__ void __launch_bounds__(kReaders, 1) read_loop(const uint8_t* data, int64_t stages, uint32_t* out) {
  extern __shared__ uint4 words[];
  __shared__ uint64_t barriers[kStages];
  const uint32_t base = ptx::shared_address(words), full = ptx::shared_address(barriers);
  const int64_t first = stages * blockIdx.x / gridDim.x, end = stages * (blockIdx.x + 1) / gridDim.x;
  const uint64_t policy = ptx::policy_evict_first();
  const auto fetch = [&](int64_t stage) {
    const auto slot = static_cast<uint32_t>((stage - first) % kStages);
    ptx::mbarrier_arrive_expect(full + slot * 8, kStageBytes);
    ptx::bulk_copy(base + slot * kStageBytes, data + stage * kStageBytes, kStageBytes, full + slot * 8, policy);
  };
  if (threadIdx.x == 0) {
    for (uint32_t i = 0; i < kStages; ++i) ptx::mbarrier_init(full + i * 8, 1);
    ptx::fence_barrier_init();
  }
  __syncthreads();
  for (int64_t stage = first; threadIdx.x == 0 && stage < min(end, first + kStages); ++stage) fetch(stage);
  uint32_t sum = 0;
  for (int64_t stage = first; stage < end; ++stage) {
    const auto slot = static_cast<uint32_t>((stage - first) % kStages);
    ptx::mbarrier_wait(full + slot * 8, static_cast<uint32_t>((stage - first) / kStages) & 1);
    for (int i = static_cast<int>(threadIdx.x); i < kStageBytes / 16; i += kReaders) {
      const uint4 word = words[slot * (kStageBytes / 16) + i];
      sum ^= word.x ^ word.y ^ word.z ^ word.w;
    }
    __syncthreads();
    if (threadIdx.x == 0 && stage + kStages < end) fetch(stage + kStages);
  }
  out[blockIdx.x * kReaders + threadIdx.x] = sum;
}

}  // namespace

int64_t launch_mma_loop(int steps, int blocks, const uint32_t* operands, float* out, cudaStream_t stream) {
  mma_loop<<<blocks, kThreads, 0, stream>>>(steps, operands, out);
  check_cuda(cudaGetLastError(), "mma_loop");
  return int64_t{steps} * blocks * (kThreads / 32) * kRows * kTokens;
}

int64_t launch_read_loop(const uint8_t* data, int64_t bytes, int blocks, uint32_t* out, cudaStream_t stream) {
  const int64_t stages = bytes / kStageBytes;
  read_loop<<<blocks, kReaders, kStages * kStageBytes, stream>>>(data, stages, out);
  check_cuda(cudaGetLastError(), "read_loop");
  return stages * kStageBytes;
}

}  // namespace nvfp4::cuda::sm120
