// From a stage in shared memory to the registers of one warp, and through the tensor cores: 64 columns at a time.
#pragma once

#include <cstdint>

#include "cuda/ptx/matrix.cuh"
#include "cuda/ptx/mma.cuh"
#include "cuda/sm120/tile.cuh"

namespace nvfp4::cuda::sm120 {

// Operand B and all scales of one step: loaded while the step before is multiplied.
template <typename Tile>
struct TokenFragments {
  static constexpr int kRowScales = Tile::kRowAtoms / 2, kTokenScales = (Tile::kTokenAtoms + 3) / 4;

  uint32_t tokens[Tile::kTokenAtoms][2];
  uint32_t row_scales[kRowScales];      // a word for 32 rows: the selector picks which sixteen
  uint32_t token_scales[kTokenScales];  // a word for 32 tokens: the selector picks which eight
};

// Operand A. Sixteen rows are loaded as soon as the same rows of the step before are multiplied, into the same
// registers.
template <typename Tile>
using RowFragments = uint32_t[Tile::kRowAtoms][4];

template <typename Tile>
using Accumulators = float[Tile::kRowAtoms][Tile::kTokenAtoms][4];

// Where this lane finds its parts of the stage in use; the rest of every address is a constant.
template <typename Tile>
struct LaneAddresses {
  uint32_t rows, row_scales, tokens[2], token_scales;

  __device__ __forceinline__ LaneAddresses(uint32_t stage, int warp, int lane) {
    const int down = warp / Tile::kWarpsAcross, across = warp % Tile::kWarpsAcross;
    rows = stage + down * Tile::kRowAtoms * 512 + lane * 16;
    row_scales = stage + static_cast<uint32_t>(kHalfUnitCodeBytes) + down * (Tile::kRowAtoms / 2) * 128 + lane * 4;
    // ldmatrix: lanes 0-7 and 8-15 give the lower and upper 32 columns of eight tokens, lanes 16-31 of the next eight.
    // The copy has put 16-byte chunk c of token r at c ^ (r / 2 % 4), so that eight tokens lie in different banks.
    const int token = across * Tile::kWarpTokens + lane % 8 + (Tile::kTokenAtoms > 1 ? lane / 16 * 8 : 0);
    const int chunk = lane / 8 % 2 ^ token / 2 % 4;
    tokens[0] = stage + static_cast<uint32_t>(kUnitBytes) + token * 64 + chunk * 16;
    tokens[1] = tokens[0] ^ 32u;
    token_scales = stage + static_cast<uint32_t>(kUnitBytes) + Tile::kTokenBytes +
                   across * (Tile::kWarpTokens / 32) * 256 + lane * 4;
  }

  // On to the stage that lies `bytes` further.
  __device__ __forceinline__ void move(uint32_t bytes) {
    rows += bytes, row_scales += bytes, token_scales += bytes, tokens[0] += bytes, tokens[1] += bytes;
  }
};

template <typename Tile>
__device__ __forceinline__ void load_rows(uint32_t (&rows)[4], const LaneAddresses<Tile>& lane, int step, int atom) {
  ptx::load_words(
      rows, lane.rows + step / 2 * Tile::kUnitStride + step % 2 * static_cast<uint32_t>(kHalfUnitBytes) + atom * 512);
}

template <typename Tile>
__device__ __forceinline__ void load_tokens(TokenFragments<Tile>& f, const LaneAddresses<Tile>& lane, int step) {
  const int half = step % 2;
  const uint32_t unit = step / 2 * Tile::kUnitStride;
  const uint32_t row_scales = lane.row_scales + unit + half * static_cast<uint32_t>(kHalfUnitBytes);
  const uint32_t tokens = lane.tokens[half] + unit, token_scales = lane.token_scales + unit + half * 128u;
#pragma unroll
  for (int i = 0; i < TokenFragments<Tile>::kRowScales; ++i) f.row_scales[i] = ptx::load_word(row_scales + i * 128);
#pragma unroll
  for (int i = 0; i < TokenFragments<Tile>::kTokenScales; ++i) {
    f.token_scales[i] = ptx::load_word(token_scales + i * 256);
  }
  if constexpr (Tile::kTokenAtoms == 1) {
    ptx::load_matrices(f.tokens[0], tokens);
  } else {
#pragma unroll
    for (int i = 0; i < Tile::kTokenAtoms; i += 2) {
      uint32_t pair[4];
      ptx::load_matrices(pair, tokens + i * 512);
      f.tokens[i][0] = pair[0], f.tokens[i][1] = pair[1], f.tokens[i + 1][0] = pair[2], f.tokens[i + 1][1] = pair[3];
    }
  }
}

// Sixteen rows times all tokens of the warp. The selectors are part of the instruction, so the loops over atoms are
// templates.
template <typename Tile, int kRowAtom, int kTokenAtom = 0>
__device__ __forceinline__ void multiply_rows(Accumulators<Tile>& sums, const uint32_t (&rows)[4],
                                              const TokenFragments<Tile>& f) {
  if constexpr (kTokenAtom < Tile::kTokenAtoms) {
    ptx::mma_m16n8k64<kRowAtom % 2, kTokenAtom % 4>(sums[kRowAtom][kTokenAtom], rows, f.tokens[kTokenAtom],
                                                    f.row_scales[kRowAtom / 2], f.token_scales[kTokenAtom / 4]);
    multiply_rows<Tile, kRowAtom, kTokenAtom + 1>(sums, rows, f);
  }
}

// One step's products. `next(atom)` loads the same rows of the step after.
template <typename Tile, int kRowAtom = 0, typename Next>
__device__ __forceinline__ void multiply(Accumulators<Tile>& sums, RowFragments<Tile>& rows,
                                         const TokenFragments<Tile>& f, Next next) {
  if constexpr (kRowAtom < Tile::kRowAtoms) {
    multiply_rows<Tile, kRowAtom>(sums, rows[kRowAtom], f);
    next(kRowAtom);
    multiply<Tile, kRowAtom + 1>(sums, rows, f, next);
  }
}

}  // namespace nvfp4::cuda::sm120
