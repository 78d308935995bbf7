// Quantisation of whole rows, in one pass: a row's blocks stay in registers while what depends on all of them is found,
// which is its amax, where the global scale is computed from it, and the factor of a norm.
#pragma once

#include "cuda/ptx/launch_control.cuh"
#include "cuda/quantize/arguments.cuh"

namespace nvfp4::cuda {

inline constexpr int kWarp = 32;
inline constexpr int kWarpsTogether = 8;

// The threads of a row: a warp (kWarpRow), or a thread block.
template <bool kWarpRow>
struct Team {
  uint32_t size, lane;

  __device__ __forceinline__ Team()
      : size(kWarpRow ? kWarp : blockDim.x), lane(kWarpRow ? threadIdx.x % kWarp : threadIdx.x) {}

  __device__ __forceinline__ uint32_t largest(uint32_t value) const {
    value = __reduce_max_sync(0xFFFFFFFFu, value);
    if constexpr (kWarpRow) return value;
    return __reduce_max_sync(0xFFFFFFFFu, of_other_warps(value));
  }

  // Added in an order that depends on the team's size alone, and the same in every thread.
  template <typename Number>
  __device__ __forceinline__ Number sum(Number value) const {
    value = warp_sum(value);
    if constexpr (kWarpRow) return value;
    return warp_sum(of_other_warps(value));
  }

 private:
  template <typename Number>
  static __device__ __forceinline__ Number warp_sum(Number value) {
#pragma unroll
    for (int distance = kWarp / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(0xFFFFFFFFu, value, distance);
    return value;
  }

  // Lane l gets the value of warp l, or zero. Once a kernel for each type: nobody waits before the memory is used
  // again.
  template <typename Number>
  __device__ __forceinline__ Number of_other_warps(Number value) const {
    __shared__ Number of_warp[kWarp];
    if (lane % kWarp == 0) of_warp[lane / kWarp] = value;
    __syncthreads();
    return lane % kWarp < size / kWarp ? of_warp[lane % kWarp] : Number(0);
  }
};

// A row has kThreads threads or fewer, or (32) a warp of a thread block, and each has kEach of its blocks at once: all
// of the row's together, or else (kLong) the row is read again when it is needed again.
template <int kMost, int kBlocks, bool kAgain = false>
struct RowShape {
  static constexpr bool kWarpRow = kMost == kWarp, kLong = kAgain;
  static constexpr int kThreads = kWarpRow ? kWarpsTogether * kWarp : kMost;
  static constexpr int kEach = kBlocks;
  static constexpr int64_t kGroups = int64_t{kMost} * kEach;  // of a row that is not long
};

// Thread blocks that an SM can hold, to bound registers: 64 each, or 40 for 16-bit values in thread blocks of their
// own, so that more rows are on their way from memory.
template <typename Source, typename Shape>
inline constexpr int kLeastRowBlocks =
    Shape::kLong ? 1 : (sizeof(typename Source::Value) == 2 && Shape::kThreads >= 512 ? 1536 : 1024) / Shape::kThreads;

// With few rows most SMs would be idle, and one would be busy for long with encoding a row.
inline constexpr int64_t kFewThreadBlocks = 128;

template <typename Source, typename Sink, typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, kLeastRowBlocks<Source, Shape>)
    quantize_rows(const __grid_constant__ QuantizeArguments p, const __grid_constant__ Source source,
                  const __grid_constant__ Sink sink) {
  using T = typename Source::Value;
  constexpr bool kWarpRow = Shape::kWarpRow, kLong = Shape::kLong;
  constexpr int kEach = Shape::kEach;
  ptx::launch_dependents();
  if (blockIdx.x >= p.data_grid) {
    return write_rest(p, int64_t{blockIdx.x - p.data_grid} * blockDim.x + threadIdx.x);
  }
  const Team<kWarpRow> team;
  const uint32_t row = kWarpRow ? blockIdx.x * kWarpsTogether + threadIdx.x / kWarp : blockIdx.x >> p.part_shift;
  const uint32_t last_part = (1u << p.part_shift) - 1, part = kWarpRow ? 0 : blockIdx.x & last_part;
  const bool first_thread = team.lane == 0 && part == 0;
  if (row >= p.rows) return;  // a whole warp; thread blocks that synchronise have a row each
  const uint32_t groups = p.by_groups.divisor;
  Block<T> blocks[kEach];
  uint32_t amax[kEach];
  // This thread's blocks, in turns of kEach.
  const auto each_turn = [&](auto&& visit) {
    uint32_t first = team.lane;
    do {
      visit(first);
      first += team.size * kEach;
    } while (kLong && first < round_up(groups, kWarp));  // by whole warps, as what adds squares wants
  };
  const auto each = [&](uint32_t first, auto&& visit) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const uint32_t group = first + i * team.size;
      if (group < groups) visit(i, group);
    }
  };
  const auto read = [&](uint32_t first) {
    each(first, [&](int i, uint32_t group) { source.load(blocks[i], row, group); });
  };
  typename Source::Factor factor{};
  if constexpr (Source::kNormalises) {
    factor = source.factor(team, [&](bool load, auto&& add) {
      each_turn([&](uint32_t first) {
        if (load || kLong) {
#pragma unroll
          for (Block<T>& block : blocks) block = {};
          read(first);
        }
#pragma unroll
        for (const Block<T>& block : blocks) add(block);
      });
    });
  }
  uint32_t largest = 0;
  const auto shape = [&](uint32_t first) {
    each(first, [&](int i, uint32_t group) {
      source.finish(blocks[i], factor, row, group);
      amax[i] = blocks[i].amax_bits();
      largest = max(largest, amax[i] < kInfinityBits ? amax[i] : blocks[i].finite_amax_bits());
    });
  };
  const bool computed = !Source::kNormalises || p.computed;
  if (computed || !kLong) {
    each_turn([&](uint32_t first) {
      if (!Source::kNormalises || kLong) read(first);
      shape(first);
    });
  }
  float global_scale;
  if (computed) {
    global_scale = global_scale_of<T>(__uint_as_float(team.largest(largest)), p.scheme);
    if (first_thread && p.global_scale != nullptr) p.global_scale[row] = global_scale;
  } else {
    global_scale = p.global_scale[p.per_row ? row : 0];
  }
  if (first_thread && (p.per_row || row == 0)) store_factors(p.gemm, p.per_row ? row : 0, global_scale);
  each_turn([&](uint32_t first) {
    if (kLong) {
      read(first);
      shape(first);
    }
    each(first, [&](int i, uint32_t group) {
      if ((group / kWarp & last_part) == part) sink.store(p, blocks[i], amax[i], global_scale, Place(p, row, group));
    });
  });
}

template <typename Shape, typename Source, typename Sink>
void launch_rows(const Source& source, const Sink& sink, QuantizeArguments p, cudaStream_t stream) {
  const int64_t team = round_up(ceil_div(p.groups, Shape::kEach), kWarp);
  const int threads = Shape::kWarpRow ? Shape::kThreads : static_cast<int>(std::min<int64_t>(team, Shape::kThreads));
  p.part_shift = 0;
  while (!Shape::kWarpRow && !source.writes() && p.rows << (p.part_shift + 1) <= kFewThreadBlocks &&
         p.groups >> (p.part_shift + 1) >= 2 * kWarp) {
    ++p.part_shift;
  }
  p.data_grid = static_cast<unsigned>(Shape::kWarpRow ? ceil_div(p.rows, kWarpsTogether) : p.rows << p.part_shift);
  launch_with_rest(quantize_rows<Source, Sink, Shape>, p, threads, stream, source, sink);
}

// A row's shape depends on its length alone, and with it the order in which a norm's squares are added.
template <typename Source, typename Sink>
void launch_rows(const Source& source, const Sink& sink, QuantizeArguments p, cudaStream_t stream) {
  constexpr bool kNarrow = sizeof(typename Source::Value) == 2;
  constexpr int kEach = Source::kLight || kNarrow ? 2 : 1;
  using Short = RowShape<kWarp, kEach>;
  // Up to 512 threads many rows share an SM; 704 let two, one of which is read while the other is encoded.
  using Middle = RowShape<512, kNarrow && !Source::kLight ? 1 : kEach>;
  using Wide = std::conditional_t<kNarrow, RowShape<704, 2>, RowShape<1024, kEach>>;
  using Whole = RowShape<1024, kEach>;
  if (p.groups <= Short::kGroups) {
    launch_rows<Short>(source, sink, p, stream);
  } else if (p.groups <= Middle::kGroups) {
    launch_rows<Middle>(source, sink, p, stream);
  } else if (p.groups <= Wide::kGroups) {
    launch_rows<Wide>(source, sink, p, stream);
  } else if (p.groups <= Whole::kGroups) {
    launch_rows<Whole>(source, sink, p, stream);
  } else {
    launch_rows<RowShape<512, 1, true>>(source, sink, p, stream);
  }
}

}  // namespace nvfp4::cuda
