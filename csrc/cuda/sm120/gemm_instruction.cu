// The instruction alone, one warp a tile, so that it can be compared with its model on registers of any bits.
#include "cuda/launch.cuh"
#include "cuda/ptx/mma.cuh"
#include "cuda/sm120/peak.h"

namespace nvfp4::cuda::sm120 {
namespace {

constexpr int kThreads = 128;

template <int kThreadA, int kThreadB>
__global__ void __launch_bounds__(kThreads) run_tiles(int64_t lanes, InstructionOperands p) {
  // Whole warps: lanes is a multiple of 32.
  const int64_t lane = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (lane >= lanes) return;
  uint32_t a[4], b[2];
  float d[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) a[i] = p.a[lane * 4 + i], d[i] = p.c[lane * 4 + i];
#pragma unroll
  for (int i = 0; i < 2; ++i) b[i] = p.b[lane * 2 + i];
  ptx::mma_m16n8k64<kThreadA, kThreadB>(d, a, b, p.sfa[lane], p.sfb[lane]);
#pragma unroll
  for (int i = 0; i < 4; ++i) p.d[lane * 4 + i] = ptx::accumulator_value(d[i]);
}

template <int kThreadA>
void launch(const InstructionOperands& p, int64_t lanes, int thread_id_b, unsigned grid, cudaStream_t stream) {
  switch (thread_id_b) {
    case 0:
      return run_tiles<kThreadA, 0><<<grid, kThreads, 0, stream>>>(lanes, p);
    case 1:
      return run_tiles<kThreadA, 1><<<grid, kThreads, 0, stream>>>(lanes, p);
    case 2:
      return run_tiles<kThreadA, 2><<<grid, kThreads, 0, stream>>>(lanes, p);
    default:
      return run_tiles<kThreadA, 3><<<grid, kThreads, 0, stream>>>(lanes, p);
  }
}

}  // namespace

void launch_instruction(const InstructionOperands& p, int64_t tiles, int thread_id_a, int thread_id_b,
                        cudaStream_t stream) {
  if (tiles == 0) return;
  const int64_t lanes = tiles * 32;
  const auto grid = static_cast<unsigned>(ceil_div(lanes, kThreads));
  if (thread_id_a == 0) {
    launch<0>(p, lanes, thread_id_b, grid, stream);
  } else {
    launch<1>(p, lanes, thread_id_b, grid, stream);
  }
  check_cuda(cudaGetLastError(), "instruction");
}

}  // namespace nvfp4::cuda::sm120
