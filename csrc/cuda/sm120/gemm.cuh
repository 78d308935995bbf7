// The matrix product of SM120: one warp fetches stages by bulk copies, the others multiply them. Thread blocks stay and
// take tile after tile. Included by the files that name its instances.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/emulation/stress.cuh"
#include "cuda/ptx/bits.cuh"
#include "cuda/ptx/copy.cuh"
#include "cuda/ptx/launch_control.cuh"
#include "cuda/ptx/registers.cuh"
#include "cuda/sm120/arguments.cuh"
#include "cuda/sm120/epilogue.cuh"
#include "cuda/sm120/fragments.cuh"
#include "cuda/sm120/maps.h"
#include "cuda/sm120/partials.cuh"
#include "cuda/sm120/pipeline.cuh"
#include "cuda/sm120/schedule.cuh"

namespace nvfp4::cuda::sm120 {

// One thread's work: every stage of every segment, in order.
template <typename Tile>
__device__ __forceinline__ void fetch(const TokenMaps& maps, const Arguments& p, Pipeline<Tile> pipeline) {
  const bool streaming = p.schedule.whole == 0;
  const uint64_t weight_policy = streaming ? ptx::policy_evict_first() : ptx::policy_evict_last();
  const uint64_t token_policy = ptx::policy_evict_last();
  const auto fetch_weights = [&](const Segment& segment, int stage) {
    ptx::mbarrier_arrive_expect(pipeline.full(), Tile::kArrivingBytes);
#pragma unroll
    for (int unit = 0; unit < Tile::kUnits; ++unit) {
      const int64_t index = (int64_t{segment.panel} * p.schedule.stages + stage) * Tile::kUnits + unit;
      ptx::bulk_copy(pipeline.stage + unit * Tile::kUnitStride, p.weights + index * kUnitBytes,
                     static_cast<uint32_t>(kUnitBytes), pipeline.full(), weight_policy);
    }
  };
  const auto fetch_tokens = [&](const Segment& segment, int stage) {
#pragma unroll
    for (int unit = 0; unit < Tile::kUnits; ++unit) {
      const uint32_t address = pipeline.stage + unit * Tile::kUnitStride + Tile::kWeightBytes;
      const int column = stage * Tile::kUnits + unit;
      ptx::tensor_copy(address, maps.codes, column * 64, segment.token_tile * Tile::kTokens, pipeline.full(),
                       token_policy);
      ptx::tensor_copy(address + Tile::kTokenBytes, maps.scales, column * 64, segment.token_tile * Tile::kScaleAtoms,
                       pipeline.full(), token_policy);
    }
  };
  // The next kernel may come as soon as there is room for it, and fetch weights of its own.
  ptx::launch_dependents();
  // The weights of the first stages do not wait for the kernel before, which makes the tokens.
  {
    const Pipeline<Tile> start = pipeline;
    int fetched = 0;
    for (Segments ahead(p.schedule); fetched < Tile::kStages && !ahead.done();) {
      const Segment segment = ahead.current();
      ahead.advance(segment);
      for (int stage = segment.begin; stage < segment.end && fetched < Tile::kStages; ++stage, ++fetched) {
        fetch_weights(segment, stage);
        pipeline.advance();
      }
    }
    pipeline = start;
  }
  ptx::wait_for_dependencies();
  int first = Tile::kStages;
  for (Segments segments(p.schedule); !segments.done();) {
    const Segment segment = segments.current();
    segments.advance(segment);
    for (int stage = segment.begin; stage < segment.end; ++stage) {
      if (first > 0) {
        --first;
      } else {
        ptx::mbarrier_wait(pipeline.empty(), pipeline.parity ^ 1);
        emulation::poison(pipeline.stage, Tile::kFullBarrier);
        emulation::pause();
        fetch_weights(segment, stage);
      }
      fetch_tokens(segment, stage);
      pipeline.advance();
    }
  }
}

// Adds a segment's columns to zeroed sums, in steps of 64. What a step needs is loaded while the step before is
// multiplied; so a stage is given back when its last step is in registers, and that is multiplied while the next stage
// is loaded.
template <typename Tile>
__device__ __forceinline__ void accumulate(Accumulators<Tile>& sums, Pipeline<Tile>& pipeline, int stages,
                                           LaneAddresses<Tile>& lane, bool first_lane) {
  constexpr int kSteps = 2 * Tile::kUnits;
  RowFragments<Tile> rows;
  TokenFragments<Tile> fragments[2];
  const auto use_stage = [&] {
#pragma unroll
    for (int step = 0; step + 1 < kSteps; ++step) {
      load_tokens(fragments[(step + 1) % 2], lane, step + 1);
      multiply<Tile>(sums, rows, fragments[step % 2], [&](int atom) { load_rows(rows[atom], lane, step + 1, atom); });
    }
    emulation::pause();
    __syncwarp();
    if (first_lane) ptx::mbarrier_arrive(pipeline.empty());
    lane.move(pipeline.advance());
  };
  ptx::mbarrier_wait(pipeline.full(), pipeline.parity);
  load_tokens(fragments[0], lane, 0);
#pragma unroll
  for (int atom = 0; atom < Tile::kRowAtoms; ++atom) load_rows(rows[atom], lane, 0, atom);
  use_stage();
#pragma unroll 1
  for (int stage = 1; stage < stages; ++stage) {
    ptx::mbarrier_wait(pipeline.full(), pipeline.parity);
    load_tokens(fragments[0], lane, 0);
    multiply<Tile>(sums, rows, fragments[1], [&](int atom) { load_rows(rows[atom], lane, 0, atom); });
    use_stage();
  }
  multiply<Tile>(sums, rows, fragments[1], [](int) {});
}

template <typename Tile>
__device__ __forceinline__ void multiply_and_store(const Arguments& p, Pipeline<Tile> pipeline, int warp, int lane) {
  LaneAddresses<Tile> addresses(pipeline.base, warp, lane);
  for (Segments segments(p.schedule); !segments.done();) {
    Accumulators<Tile> sums = {};
    {
      const Segment segment = segments.current();
      accumulate(sums, pipeline, segment.end - segment.begin, addresses, lane == 0);
    }
    segments.forget();
    const Segment segment = segments.current();
    emulation::pause();
    // Asked again, so that neither takes a register in the loop above.
    if (segment.parts == 1 || sum_parts<Tile>(sums, p, segments, segment, ptx::thread_index() / kWarp, lane)) {
      const int thread = ptx::thread_index(), own_warp = thread / kWarp, own_lane = thread % kWarp;
      const uint32_t staging = pipeline.base + Tile::kStagingOffset + own_warp * Tile::kStagingBytes;
      store_tile<Tile>(sums, p, segment, staging, own_warp, own_lane);
    }
    segments.advance(segment);
  }
}

template <typename Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kSharedBytes <= kSharedMemoryTwoKernels ? 2 : 1)
    gemm(const __grid_constant__ TokenMaps maps, const __grid_constant__ Arguments p) {
  extern __shared__ uint8_t shared_bytes[];
  const uint32_t shared = ptx::shared_address(shared_bytes);
  uint32_t base = (shared + Tile::kAlignment - 1) / Tile::kAlignment * Tile::kAlignment;
  ptx::forget(base);  // known once, not computed again in the main loop
  const Pipeline<Tile> pipeline(base);
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  if (threadIdx.x == 0) pipeline.init();
  __syncthreads();
  if (warp >= Tile::kWarps) {
    if constexpr (Tile::kMovesRegisters) ptx::give_registers_down_to<Tile::kFetchRegisters>();
    if (warp == Tile::kWarps && lane == 0) fetch<Tile>(maps, p, pipeline);
  } else {
    if constexpr (Tile::kMovesRegisters) ptx::take_registers_up_to<Tile::kMultiplyRegisters>();
    // What the warps read beside the stages, and where they write, belongs to the kernel before until it is complete.
    ptx::wait_for_dependencies();
    multiply_and_store<Tile>(p, pipeline, warp, lane);
  }
}

}  // namespace nvfp4::cuda::sm120
