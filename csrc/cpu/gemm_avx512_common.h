// What the AVX-512 gemm files share: sixteen weight rows in a vector, and for W4A4 everything but the 8-bit dot product
// itself. Included by exactly those files, each compiled with its own flags, so all of it has internal linkage.
#pragma once

#include <immintrin.h>

#include "gemm_kernels.h"

namespace nvfp4::cpu {
namespace {

inline __m512i load(const void* p) { return _mm512_loadu_si512(p); }

// Asks for the tile that comes kTilesAhead after this one. The hardware's own prefetcher keeps up with a plain read but
// not with a loop that computes as long as it reads. Into the second-level cache: it has more reads in flight than the
// first (measured on Zen 4). Past the end of the weights this is a harmless hint.
inline void prefetch_tile(const uint8_t* tile) {
  constexpr int64_t kTilesAhead = 24;
  for (int64_t line = 0; line < kTileBytes; line += 64) {
    __builtin_prefetch(tile + kTilesAhead * kTileBytes + line, 0, 2);
  }
}

// One 32-bit word in every lane; from memory this is a load and costs no arithmetic port.
inline __m512i broadcast_word(const void* p) {
  int32_t word;
  memcpy(&word, p, sizeof(word));
  return _mm512_set1_epi32(word);
}

// A group of sixteen rows: twice the value plus 12, as unsigned bytes, word i holding columns 4*i to 4*i + 3 of every
// row.
struct GroupCodes {
  __m512i word[4];
};

inline GroupCodes decode_codes(const uint8_t* codes) {
  const __m128i twice = _mm_loadu_si128(reinterpret_cast<const __m128i*>(kTwiceE2M1));
  const __m512i table = _mm512_broadcast_i32x4(_mm_add_epi8(twice, _mm_set1_epi8(kCodeOffset)));
  const __m512i mask = _mm512_set1_epi8(15);
  GroupCodes group;
  for (int half = 0; half < 2; ++half) {
    const __m512i v = load(codes + 64 * half);
    group.word[2 * half] = _mm512_shuffle_epi8(table, _mm512_and_si512(v, mask));
    group.word[2 * half + 1] = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(v, 4), mask));
  }
  return group;
}

// Sixteen block scales as s_b * 2^-120, NaN where the byte is 0x7F.
inline __m512 scale_bits(const uint8_t* p) {
  const __m512i wide = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __mmask16 nan = _mm512_cmpeq_epi32_mask(wide, _mm512_set1_epi32(kE4M3Nan));
  return _mm512_castsi512_ps(_mm512_mask_mov_epi32(_mm512_slli_epi32(wide, 20), nan, _mm512_set1_epi32(0x7FC00000)));
}

// `dot(group, x, offset)` gives sixteen int32: the group's codes by one token's sixteen, plus the token's offset.
template <int T, typename Dot>
inline __attribute__((always_inline)) void add_group(const GroupCodes& group, __m512 s_b, const uint8_t* x, Dot dot,
                                                     __m512 (&acc)[T]) {
  const uint8_t* s_a = x + 16 * T;
  const uint8_t* offset = s_a + 4 * T;
  for (int t = 0; t < T; ++t) {
    const __m512 term = _mm512_mul_ps(_mm512_cvtepi32_ps(dot(group, x + 16 * t, offset + 4 * t)), s_b);
    acc[t] = _mm512_fmadd_ps(term, _mm512_castsi512_ps(broadcast_word(s_a + 4 * t)), acc[t]);
  }
}

template <int T, typename Dot>
inline __attribute__((always_inline)) void stream_block(const uint8_t* tiles, int64_t tile_count, const uint8_t* block,
                                                        Dot dot, float* sums) {
  __m512 acc[T];
  for (int t = 0; t < T; ++t) acc[t] = _mm512_loadu_ps(sums + 16 * t);
  for (int64_t tile = 0; tile < tile_count; ++tile, tiles += kTileBytes) {
    prefetch_tile(tiles);
    for (int g = 0; g < kTileGroups; ++g, block += token_group_bytes(T)) {
      const __m512 s_b = scale_bits(tiles + kTileCodeBytes + 16 * g);
      add_group<T>(decode_codes(tiles + 128 * g), s_b, block, dot, acc);
    }
  }
  for (int t = 0; t < T; ++t) _mm512_storeu_ps(sums + 16 * t, acc[t]);
}

// A decoded group: the four words of codes, then float s_b[16].
inline void decode(const uint8_t* tiles, int64_t tile_count, uint8_t* panel) {
  for (int64_t tile = 0; tile < tile_count; ++tile, tiles += kTileBytes) {
    for (int g = 0; g < kTileGroups; ++g, panel += kPanelGroupBytes) {
      const GroupCodes group = decode_codes(tiles + 128 * g);
      for (int i = 0; i < 4; ++i) _mm512_store_si512(panel + 64 * i, group.word[i]);
      _mm512_store_ps(panel + 256, scale_bits(tiles + kTileCodeBytes + 16 * g));
    }
  }
}

template <int T, typename Dot>
inline __attribute__((always_inline)) void panel_block(const uint8_t* panel, int64_t group_count, const uint8_t* block,
                                                       Dot dot, float* sums) {
  __m512 acc[T];
  for (int t = 0; t < T; ++t) acc[t] = _mm512_loadu_ps(sums + 16 * t);
  for (int64_t g = 0; g < group_count; ++g, panel += kPanelGroupBytes, block += token_group_bytes(T)) {
    const GroupCodes group = {{load(panel), load(panel + 64), load(panel + 128), load(panel + 192)}};
    add_group<T>(group, _mm512_load_ps(panel + 256), block, dot, acc);
  }
  for (int t = 0; t < T; ++t) _mm512_storeu_ps(sums + 16 * t, acc[t]);
}

// Calls run(Width<T>()) for the width at hand, so that the block's registers are named at compile time.
template <int T>
struct Width {
  static constexpr int value = T;
};

template <typename Run>
inline __attribute__((always_inline)) void with_width(int width, Run run) {
  switch (width) {
    case 1:
      return run(Width<1>());
    case 2:
      return run(Width<2>());
    case 3:
      return run(Width<3>());
    case 4:
      return run(Width<4>());
    case 5:
      return run(Width<5>());
    case 6:
      return run(Width<6>());
    case 7:
      return run(Width<7>());
    default:
      return run(Width<8>());
  }
}

template <typename Dot>
inline void stream(const uint8_t* tiles, int64_t tile_count, const uint8_t* block, int width, float* sums) {
  with_width(width, [&](auto tag) { stream_block<decltype(tag)::value>(tiles, tile_count, block, Dot(), sums); });
}

template <typename Dot>
inline void panel(const uint8_t* panel, int64_t group_count, const uint8_t* block, int width, float* sums) {
  with_width(width, [&](auto tag) { panel_block<decltype(tag)::value>(panel, group_count, block, Dot(), sums); });
}

}  // namespace
}  // namespace nvfp4::cpu
