// What the AVX2 gemm files share. Included by exactly those, so all of it has internal linkage.
#pragma once

#include <immintrin.h>

#include "gemm_kernels.h"

namespace nvfp4::cpu {
namespace {

inline __m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

// One 32-bit word in every lane; from memory this is a load and costs no arithmetic port.
inline __m256i broadcast_word(const void* p) {
  int32_t word;
  memcpy(&word, p, sizeof(word));
  return _mm256_set1_epi32(word);
}

// Twice the e2m1 value of the sixteen codes, plus `offset`: a table for a byte shuffle.
inline __m256i code_table(int offset) {
  const __m128i table = _mm_loadu_si128(reinterpret_cast<const __m128i*>(kTwiceE2M1));
  return _mm256_broadcastsi128_si256(_mm_add_epi8(table, _mm_set1_epi8(static_cast<char>(offset))));
}

// Asks for the tile that comes kTilesAhead after this one. The hardware's own prefetcher keeps up with a plain read but
// not with a loop that computes as long as it reads. Past the end of the weights this is a harmless hint.
inline void prefetch_tile(const uint8_t* tile) {
  constexpr int64_t kTilesAhead = 4;  // the best with one and four tokens on Zen 3
  for (int64_t line = 0; line < kTileBytes; line += 64) {
    __builtin_prefetch(tile + kTilesAhead * kTileBytes + line);
  }
}

struct Nibbles {
  __m256i low, high;
};

inline Nibbles split(__m256i codes) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(codes, mask), _mm256_and_si256(_mm256_srli_epi16(codes, 4), mask)};
}

// Eight block scales as s_b * 2^-120; the NaN byte is the caller's to handle.
inline __m256 scale_bits(const uint8_t* p) {
  const __m256i wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 20));
}

// All ones (a NaN) in the lanes whose scale byte is 0x7F.
inline __m256 nan_lanes(const uint8_t* p) {
  const __m256i wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_cmpeq_epi32(wide, _mm256_set1_epi32(kE4M3Nan)));
}

// Rows of a tile column in which any of the four groups has a NaN scale: 16 bytes, all ones where so.
inline __m128i nan_rows(const uint8_t* scales) {
  const __m256i nan = _mm256_set1_epi8(kE4M3Nan);
  const __m256i any = _mm256_or_si256(_mm256_cmpeq_epi8(load(scales), nan), _mm256_cmpeq_epi8(load(scales + 32), nan));
  return _mm_or_si128(_mm256_castsi256_si128(any), _mm256_extracti128_si256(any, 1));
}

// Makes the sums of the marked rows NaN. Kept out of the inner loop, which treats 0x7F as 480.
inline void poison(__m128i rows, int width, float* sums) {
  if (_mm_testz_si128(rows, rows)) return;
  const __m256 half[2] = {_mm256_castsi256_ps(_mm256_cvtepi8_epi32(rows)),
                          _mm256_castsi256_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(rows, 8)))};
  for (int i = 0; i < 2 * width; ++i) {
    _mm256_storeu_ps(sums + 8 * i, _mm256_or_ps(_mm256_loadu_ps(sums + 8 * i), half[i % 2]));
  }
}

}  // namespace
}  // namespace nvfp4::cpu
