// From accumulators to memory: scale, bias, rounding, activation, residual, or codes and scales again.
#pragma once

#include <cstdint>

#include "cuda/activation.cuh"
#include "cuda/ptx/bits.cuh"
#include "cuda/ptx/matrix.cuh"
#include "cuda/ptx/mma.cuh"
#include "cuda/quantize/block.cuh"
#include "cuda/sm120/arguments.cuh"
#include "cuda/sm120/fragments.cuh"

namespace nvfp4::cuda::sm120 {

// Where a warp's part of a tile lies, and a lane's in it: rows row + 16 i + {0, 8} + group, tokens token + 8 j + 2 pair
// + {0, 1}.
template <typename Tile>
struct Place {
  int row, token;
  int group, pair;

  __device__ __forceinline__ Place(const Segment& segment, int warp, int lane)
      : row(segment.panel * static_cast<int>(kUnitRows) + warp / Tile::kWarpsAcross * Tile::kWarpRows),
        token(segment.token_tile * Tile::kTokens + warp % Tile::kWarpsAcross * Tile::kWarpTokens),
        group(lane / 4),
        pair(lane % 4) {}
};

__device__ __forceinline__ float load_bias(const Arguments& p, int row) {
  if (row >= p.n) return 0.0f;
  switch (p.bias_dtype) {
    case DType::kFloat32:
      return __ldg(static_cast<const float*>(p.bias) + row);
    case DType::kFloat16:
      return __half2float(__ldg(static_cast<const __half*>(p.bias) + row));
    case DType::kBFloat16:
      return __bfloat162float(__ldg(static_cast<const __nv_bfloat16*>(p.bias) + row));
  }
  return 0.0f;
}

// The factors of a warp's tokens, for the rows below and above eight of every sixteen: a lane loads those of every 32nd
// token, all at once, and the others ask it.
template <typename Tile>
struct Alphas {
  static constexpr int kEach = (Tile::kWarpTokens + kWarp - 1) / kWarp;
  float low[kEach], high[kEach];

  __device__ __forceinline__ Alphas(const Arguments& p, int first_token, int lane) {
    const float* up = p.up_alpha == nullptr ? p.alpha : p.up_alpha;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int index = p.alpha_per_token ? min(first_token + i * kWarp + lane, p.m - 1) : 0;
      low[i] = __ldcg(p.alpha + index);
      high[i] = __ldcg(up + index);
    }
  }

  // `token` is the same word of 32 for the whole warp.
  __device__ __forceinline__ float2 of(int token) const {
    const bool second = kEach > 1 && token >= kWarp;
    return make_float2(__shfl_sync(0xFFFFFFFFu, second ? low[kEach - 1] : low[0], token % kWarp),
                       __shfl_sync(0xFFFFFFFFu, second ? high[kEach - 1] : high[0], token % kWarp));
  }
};

__device__ __forceinline__ uint32_t pack_pair(float low, float high, DType dtype) {
  return dtype == DType::kFloat16 ? bits_of(__floats2half2_rn(low, high)) : bits_of(__floats2bfloat162_rn(low, high));
}

__device__ __forceinline__ float2 unpack_pair(uint32_t pair, DType dtype) {
  return dtype == DType::kFloat16 ? __half22float2(pair_of<__half2>(pair))
                                  : __bfloat1622float2(pair_of<__nv_bfloat162>(pair));
}

// Tokens of one warp as 16-bit numbers in shared memory, kChunks chunks of eight rows a token. A chunk's place depends
// on its token, so that eight tokens lie in different banks.
template <int kChunks>
struct Staging {
  uint32_t base;

  __device__ __forceinline__ uint32_t address(int token, int chunk) const {
    return base + token * kChunks * 16 + (chunk ^ token * kChunks / 8 % kChunks) * 16;
  }
};

// Everything a warp's part of a tile needs on its way out.
template <typename Tile>
struct Output {
  static constexpr int kChunks = 2 * Tile::kRowAtoms, kTokens = 8 * Tile::kAtomsStaged;

  const Arguments& p;
  Place<Tile> place;
  Alphas<Tile> alphas;
  Staging<kChunks> staging;
  int lane;
  int gated;  // 1: gate and up chunks alternate, and outputs lie in every second chunk
  int shift;  // a token has 1 << shift chunks of outputs
  int first_output, outputs;

  __device__ __forceinline__ Output(const Arguments& p, const Place<Tile>& place, uint32_t staging, int lane)
      : p(p),
        place(place),
        alphas(p, place.token, lane),
        staging{staging},
        lane(lane),
        gated(p.activation != Activation::kNone ? 1 : 0),
        shift((kChunks == 8 ? 3 : 2) - gated),
        first_output(place.row >> gated),
        outputs(p.n >> gated) {}

  // The results of one lane from one accumulator: two rows, eight apart, of two tokens.
  __device__ __forceinline__ void finish(float (&y)[4], const float (&sums)[4], const float2 (&alpha)[2],
                                         int atom) const {
#pragma unroll
    for (int e = 0; e < 4; ++e) y[e] = ptx::accumulator_value(sums[e]) * (e < 2 ? alpha[e % 2].x : alpha[e % 2].y);
    if (p.bias != nullptr) {
      const int row = place.row + 16 * atom + place.group;
      const float low = load_bias(p, row), high = load_bias(p, row + 8);
      y[0] += low, y[1] += low, y[2] += high, y[3] += high;
    }
  }

  // Atoms kFirst .. of the tokens as 16-bit numbers into shared memory: matrices of eight rows by eight tokens,
  // transposed on their way, so that a token's rows become neighbours.
  template <int kFirst>
  __device__ __forceinline__ void stage(const Accumulators<Tile>& sums) const {
#pragma unroll
    for (int j = 0; j < Tile::kAtomsStaged; ++j) {
      const int token = 8 * (kFirst + j) + 2 * place.pair;
      const float2 alpha[2] = {alphas.of(token), alphas.of(token + 1)};
      uint32_t chunks[kChunks];
#pragma unroll
      for (int i = 0; i < Tile::kRowAtoms; ++i) {
        float y[4];
        finish(y, sums[i][kFirst + j], alpha, i);
        chunks[2 * i] = pack_pair(y[0], y[1], p.out_dtype);
        chunks[2 * i + 1] = pack_pair(y[2], y[3], p.out_dtype);
      }
#pragma unroll
      for (int c = 0; c < kChunks; c += 4) {
        const uint32_t four[4] = {chunks[c], chunks[c + 1], chunks[c + 2], chunks[c + 3]};
        ptx::store_matrices_transposed(staging.address(8 * j + lane % 8, c + lane / 8), four);
      }
    }
  }

  // float32, straight to memory: eight lanes write 32 neighbouring bytes, which is a whole sector.
  template <int kFirst>
  __device__ __forceinline__ void write_wide(const Accumulators<Tile>& sums, int first_token) const {
#pragma unroll
    for (int j = 0; j < Tile::kAtomsStaged; ++j) {
      const int first = 8 * (kFirst + j) + 2 * place.pair;
      const float2 alpha[2] = {alphas.of(first), alphas.of(first + 1)};
#pragma unroll
      for (int i = 0; i < Tile::kRowAtoms; ++i) {
        float y[4];
        finish(y, sums[i][kFirst + j], alpha, i);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int row = place.row + 16 * i + e / 2 * 8 + place.group;
          const int token = first_token + 8 * j + 2 * place.pair + e % 2;
          if (token >= p.m || row >= p.n) continue;
          const int64_t offset = int64_t{token} * p.n + row;
          if (p.residual != nullptr) y[e] += static_cast<const float*>(p.residual)[offset];
          static_cast<float*>(p.out)[offset] = y[e];
        }
      }
    }
  }

  // Every gate becomes act(gate) * up. Both have been rounded, as if they had been written and read back.
  __device__ __forceinline__ void activate_staged() const {
#pragma unroll 1
    for (int index = lane; index < kTokens * kChunks * 2; index += kWarp) {
      const int token = index / (2 * kChunks), chunk = index / 4 % (kChunks / 2) * 2, word = index % 4 * 4;
      const uint32_t address = staging.address(token, chunk) + word;
      const float2 gate = unpack_pair(ptx::load_word(address), p.out_dtype);
      const float2 up = unpack_pair(ptx::load_word(staging.address(token, chunk + 1) + word), p.out_dtype);
      ptx::store_word(
          address, pack_pair(activate(gate.x, up.x, p.activation), activate(gate.y, up.y, p.activation), p.out_dtype));
    }
    __syncwarp();
  }

  __device__ __forceinline__ uint4 add_residual(const uint32_t (&words)[4], int64_t offset) const {
    const uint4 other = __ldcg(reinterpret_cast<const uint4*>(static_cast<const uint8_t*>(p.residual) + offset));
    const uint32_t others[4] = {other.x, other.y, other.z, other.w};
    uint32_t sums[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 a = unpack_pair(words[i], p.out_dtype), b = unpack_pair(others[i], p.out_dtype);
      sums[i] = pack_pair(a.x + b.x, a.y + b.y, p.out_dtype);
    }
    return make_uint4(sums[0], sums[1], sums[2], sums[3]);
  }

  // Lanes take chunks of one token after the other, so that neighbours write neighbouring bytes.
  __device__ __forceinline__ void write_staged(int first_token) const {
    const int chunk = lane & ((1 << shift) - 1), tokens = kWarp >> shift;
    const int output = first_output + chunk * 8;
    if (output >= outputs) return;
    int token = lane >> shift;
    int64_t offset = (int64_t{first_token + token} * outputs + output) * 2;
#pragma unroll
    for (int i = 0; i < kTokens * kChunks / kWarp; ++i) {
      if (token < kTokens && first_token + token < p.m) {
        uint32_t words[4];
        ptx::load_words(words, staging.address(token, chunk << gated));
        const uint4 value =
            p.residual != nullptr ? add_residual(words, offset) : make_uint4(words[0], words[1], words[2], words[3]);
        *reinterpret_cast<uint4*>(static_cast<uint8_t*>(p.out) + offset) = value;
      }
      token += tokens;
      offset += int64_t{tokens} * outputs * 2;
    }
  }

  // A lane a block of sixteen, by the functions of the quantise kernel, so that the bits are the same.
  __device__ __forceinline__ void quantize_staged(int first_token) const {
#pragma unroll 1
    for (int work = lane; work < kTokens << (shift - 1); work += kWarp) {
      const int token = work >> (shift - 1), index = work - (token << (shift - 1));
      const int row = first_token + token, output = first_output + index * kGroupSize;
      if (row >= p.m || output >= outputs) continue;
      Block<float> block;
      float* values = reinterpret_cast<float*>(block.words);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint32_t words[4];
        ptx::load_words(words, staging.address(token, (2 * index + half) << gated));
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float2 pair = unpack_pair(words[i], p.out_dtype);
          values[8 * half + 2 * i] = pair.x, values[8 * half + 2 * i + 1] = pair.y;
        }
      }
      const float global_scale = __ldg(p.out_global_scale);
      const uint32_t amax = block.amax_bits();
      BlockScale scale;
      uint2 codes = make_uint2(0, 0);
      if (is_usual(amax, global_scale, Scheme::kNvfp4)) {
        scale = usual_scale(amax, global_scale);
        codes = encode_usual(block, scale.step);
      } else {
        scale = rare_scale<float>(amax, global_scale, Scheme::kNvfp4);
        // From shared memory again: rolled, the rare code needs few registers.
#pragma unroll 1
        for (int i = 0; i < kGroupSize / 2; ++i) {
          const uint32_t address = staging.address(token, (2 * index + i / 4) << gated) + i % 4 * 4;
          const float2 pair = unpack_pair(ptx::load_word(address), p.out_dtype);
          const uint32_t low = encode_rare(pair.x, scale.step, Scheme::kNvfp4);
          const uint32_t two = low | encode_rare(pair.y, scale.step, Scheme::kNvfp4) << 4;
          (i < 4 ? codes.x : codes.y) |= two << 8 * (i % 4);
        }
      }
      *reinterpret_cast<uint2*>(p.out_packed + int64_t{row} * p.out_pitch + output / 2) = codes;
      const int groups = outputs / kGroupSize;
      p.out_scale[swizzled_offset(row, output / kGroupSize, groups, 32)] = static_cast<uint8_t>(scale.byte);
      // Behind a row's last block, the zeros that pad its scales to four groups: NaN there would poison the next
      // product.
      for (int pad = groups; output + kGroupSize == outputs && pad % 4 != 0; ++pad) {
        p.out_scale[swizzled_offset(row, pad, groups, 32)] = 0;
      }
    }
  }

  // The loop over atoms is rolled: registers have no index, so each round jumps to the code of its atoms, and what
  // follows exists once.
  template <int kRound = 0>
  __device__ __forceinline__ void round(const Accumulators<Tile>& sums, int wanted, int first_token) const {
    constexpr int kFirst = kRound * Tile::kAtomsStaged;
    if constexpr (kFirst < Tile::kTokenAtoms) {
      if (wanted != kRound) return round<kRound + 1>(sums, wanted, first_token);
      if (p.out_dtype == DType::kFloat32) {
        write_wide<kFirst>(sums, first_token);
      } else {
        stage<kFirst>(sums);
      }
    }
  }

  __device__ __forceinline__ void write(const Accumulators<Tile>& sums) const {
#pragma unroll 1
    for (int i = 0; i < Tile::kTokenAtoms / Tile::kAtomsStaged; ++i) {
      const int first_token = place.token + i * kTokens;
      if (first_token >= p.m) break;
      round(sums, i, first_token);
      if (p.out_dtype == DType::kFloat32) continue;
      __syncwarp();
      if (gated) activate_staged();
      if (p.out_packed == nullptr) {
        write_staged(first_token);
      } else {
        quantize_staged(first_token);
      }
      __syncwarp();
    }
  }
};

template <typename Tile>
__device__ __forceinline__ void store_tile(const Accumulators<Tile>& sums, const Arguments& p, const Segment& segment,
                                           uint32_t staging, int warp, int lane) {
  // Made unknown, or the compiler would compute every address before the first tile and keep them all.
  ptx::forget(staging, warp, lane);
  const Place<Tile> place(segment, warp, lane);
  if (place.token < p.m) Output<Tile>(p, place, staging, lane).write(sums);
}

}  // namespace nvfp4::cuda::sm120
