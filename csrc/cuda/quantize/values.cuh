// Values between memory and arithmetic, sixteen bytes at a time.
#pragma once

#include <type_traits>

#include "cuda/quantize/block.cuh"

namespace nvfp4::cuda {

// Sixteen bytes of values, and float32 numbers (or the values themselves, where they are float32) of as many.
template <typename T>
inline constexpr int kChunk = 16 / static_cast<int>(sizeof(T));

__device__ __forceinline__ void unpack(const uint4& chunk, float (&values)[4], float) {
  memcpy(values, &chunk, sizeof(chunk));
}
template <typename T>
__device__ __forceinline__ void unpack(const uint4& chunk, float (&values)[8], T) {
  const uint32_t pairs[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) values[2 * i] = low_of(pairs[i], T()), values[2 * i + 1] = high_of(pairs[i], T());
}

__device__ __forceinline__ uint4 pack(const float (&values)[4], float) {
  uint4 chunk;
  memcpy(&chunk, values, sizeof(chunk));
  return chunk;
}
template <typename T>
__device__ __forceinline__ uint4 pack(const float (&values)[8], T) {
  return make_uint4(pack_pair(values[0], values[1], T()), pack_pair(values[2], values[3], T()),
                    pack_pair(values[4], values[5], T()), pack_pair(values[6], values[7], T()));
}

// In what numbers of type T are computed with, so that one rounding to T at the end is the only one that shows.
template <typename T>
using Exact = std::conditional_t<sizeof(T) == 4, double, float>;

template <typename T>
__device__ __forceinline__ void write_block(T* to, const Block<T>& block) {
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(T)); ++i) reinterpret_cast<uint4*>(to)[i] = block.words[i];
}

// q * (s / G) of sixteen codes, in float32 and rounded once.
template <typename T>
__device__ __forceinline__ void write_decoded(T* to, uint2 codes, float step) {
  Block<T> block;
#pragma unroll
  for (int chunk = 0; chunk < static_cast<int>(sizeof(T)); ++chunk) {
    float values[kChunk<T>];
#pragma unroll
    for (int i = 0; i < kChunk<T>; i += 2) {
      const int column = chunk * kChunk<T> + i;
      const uint32_t byte = (column < 8 ? codes.x : codes.y) >> 4 * (column % 8) & 0xFFu;
      const float2 pair = __half22float2(ptx::e2m1x2_to_half2(byte));
      values[i] = pair.x * step;
      values[i + 1] = pair.y * step;
    }
    block.words[chunk] = pack(values, T());
  }
  write_block(to, block);
}

}  // namespace nvfp4::cuda
