// The shapes of the SM120 matrix products. Operands are swapped throughout: weight rows fill the instruction's M = 16
// and tokens its N = 8, so one weight layout serves one token and eight thousand, and the accumulators of a lane hold
// one weight row for two tokens.
#pragma once

#include <cstdint>

#include "nvfp4/layout.h"

namespace nvfp4::cuda::sm120 {

inline constexpr int kWarp = 32;
inline constexpr int kSharedMemory = 101376;  // what a thread block of an SM120 may have
// Thread blocks of two consecutive kernels on one SM share 100 KiB, of which each loses 1 KiB to the system.
inline constexpr int kSharedMemoryTwoKernels = 50176;

constexpr int round_up_to(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

// A thread block makes kUnitRows weight rows by kTokens tokens, from kStages stages in shared memory of kUnits units of
// 128 columns each. Its warps lie kWarpsDown by kWarpsAcross over the tile, and one warp more fetches.
template <int kTokens_, int kUnits_, int kStages_, int kWarpsDown_, int kWarpsAcross_, int kMostSharedMemory>
struct Tile {
  static constexpr int kTokens = kTokens_, kUnits = kUnits_, kStages = kStages_;
  static constexpr int kWarpsDown = kWarpsDown_, kWarpsAcross = kWarpsAcross_;
  static constexpr int kWarps = kWarpsDown * kWarpsAcross;
  // One warp fetches. Three more complete its warpgroup, which gives its registers to the others: an SM quarter has
  // 16,384 of them for three warps.
  static constexpr bool kMovesRegisters = kWarps == 8;
  static constexpr int kThreads = (kWarps + (kMovesRegisters ? 4 : 1)) * kWarp;
  static constexpr int kFetchRegisters = 40, kMultiplyRegisters = 232;

  static constexpr int kWarpRows = static_cast<int>(kUnitRows) / kWarpsDown, kWarpTokens = kTokens / kWarpsAcross;
  static constexpr int kRowAtoms = kWarpRows / 16, kTokenAtoms = kWarpTokens / 8;
  static_assert(kWarpRows % 32 == 0, "a word of scales serves 32 rows");
  static_assert(kWarpTokens % 32 == 0 || kWarpsAcross == 1, "a word of scales serves 32 tokens");

  // A stage: for every unit the weights as they lie in memory, the tokens' codes (64 bytes a token, swizzled), and the
  // tokens' scales (two atoms for every 32 tokens); then the stage's two barriers.
  static constexpr int kScaleAtoms = (kTokens + 31) / 32;
  static constexpr int kTokenBytes = kTokens * 64, kTokenScaleBytes = kScaleAtoms * 256;
  static constexpr int kWeightBytes = static_cast<int>(kUnitBytes);
  static constexpr int kAlignment = 512;  // the swizzle of 64-byte rows repeats every 512 bytes
  static constexpr int kUnitStride =
      round_up_to(kWeightBytes + kTokenBytes + kTokenScaleBytes, kUnits > 1 ? kAlignment : 16);
  static constexpr int kFullBarrier = kUnits * kUnitStride, kEmptyBarrier = kFullBarrier + 8;
  static constexpr int kStageBytes = round_up_to(kEmptyBarrier + 8, kAlignment);
  static constexpr int kArrivingBytes = kUnits * (kWeightBytes + kTokenBytes + kTokenScaleBytes);

  // Behind the stages: 16-bit results of up to sixteen tokens a warp, on their way to memory.
  static constexpr int kAtomsStaged = kTokenAtoms == 1 ? 1 : 2;
  static constexpr int kStagingBytes = kAtomsStaged * 8 * kWarpRows * 2;
  static constexpr int kStagingOffset = kStages * kStageBytes;
  static constexpr int kSharedBytes = kStagingOffset + kWarps * kStagingBytes + kAlignment;
  static_assert(kSharedBytes <= kMostSharedMemory, "the tile needs more shared memory than there is");
  static_assert(kStages >= 2, "the next stage is fetched while one is used");
};

// Streaming: every weight is read once, for few tokens.
template <int kTokens, int kStages>
using Streaming = Tile<kTokens, 1, kStages, 4, 1, kSharedMemoryTwoKernels>;
using Streaming8 = Streaming<8, 4>;
using Streaming16 = Streaming<16, 4>;
using Streaming32 = Streaming<32, 3>;
using Streaming64 = Streaming<64, 3>;

// Many tokens: tokens x weight rows x columns.
using Tile256x128x128 = Tile<256, 1, 3, 2, 4, kSharedMemory>;
using Tile128x128x128 = Tile<128, 1, 4, 2, 4, kSharedMemory>;
using Tile128x128x256 = Tile<128, 2, 2, 2, 4, kSharedMemory>;

}  // namespace nvfp4::cuda::sm120
