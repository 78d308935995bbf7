// AVX2 gemm kernels: eight weight rows in a vector, 8-bit multiply-add of unsigned by signed bytes.
#include <immintrin.h>

#include "gemm_epilogue.h"
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

// Asks for the tile that comes kPrefetchBytes after this one. The hardware's own prefetcher keeps up with a plain read
// but not with a loop that computes as long as it reads. Past the end of the weights this is a harmless hint.
inline void prefetch_tile(const uint8_t* tile) {
  constexpr int64_t kPrefetchBytes = 4 * kTileBytes;
  for (int64_t line = 0; line < kTileBytes; line += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(tile + kPrefetchBytes + line), _MM_HINT_T0);
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

inline __m256i dot_pairs(const __m256i (&w)[4], const uint8_t* x) {
  __m256i sum = _mm256_maddubs_epi16(w[0], broadcast_word(x));
  sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(w[1], broadcast_word(x + 4)));
  const __m256i rest = _mm256_maddubs_epi16(w[2], broadcast_word(x + 8));
  return _mm256_add_epi16(sum, _mm256_add_epi16(rest, _mm256_maddubs_epi16(w[3], broadcast_word(x + 12))));
}

// Weights are decoded in registers to 2*w + 12 and used at once by all tokens of the block.
template <int T>
void stream_block(const uint8_t* tiles, int64_t tile_count, const uint8_t* block, float* sums) {
  const __m256i table = code_table(kCodeOffset);
  const __m256i ones = _mm256_set1_epi16(1);
  __m128i nans = _mm_setzero_si128();
  for (int64_t tile = 0; tile < tile_count; ++tile, tiles += kTileBytes, block += kTileGroups * token_group_bytes(T)) {
    const uint8_t* scales = tiles + kTileCodeBytes;
    prefetch_tile(tiles);
    nans = _mm_or_si128(nans, nan_rows(scales));
    for (int half = 0; half < 2; ++half) {
      __m256 acc[T];
      for (int t = 0; t < T; ++t) acc[t] = _mm256_loadu_ps(sums + 16 * t + 8 * half);
      for (int g = 0; g < kTileGroups; ++g) {
        const uint8_t* codes = tiles + 128 * g + 32 * half;
        const Nibbles first = split(load(codes));
        const Nibbles second = split(load(codes + 64));
        const __m256i w[4] = {_mm256_shuffle_epi8(table, first.low), _mm256_shuffle_epi8(table, first.high),
                              _mm256_shuffle_epi8(table, second.low), _mm256_shuffle_epi8(table, second.high)};
        const __m256 s_b = scale_bits(scales + 16 * g + 8 * half);
        const uint8_t* x = block + g * token_group_bytes(T);
        const uint8_t* s_a = x + 16 * T;
        const uint8_t* offset = s_a + 4 * T;
        for (int t = 0; t < T; ++t) {
          const __m256i pairs = dot_pairs(w, x + 16 * t);
          const __m256i dot = _mm256_add_epi32(_mm256_madd_epi16(pairs, ones), broadcast_word(offset + 4 * t));
          const __m256 term = _mm256_mul_ps(_mm256_cvtepi32_ps(dot), s_b);
          acc[t] = _mm256_fmadd_ps(term, _mm256_castsi256_ps(broadcast_word(s_a + 4 * t)), acc[t]);
        }
      }
      for (int t = 0; t < T; ++t) _mm256_storeu_ps(sums + 16 * t + 8 * half, acc[t]);
    }
  }
  poison(nans, T, sums);
}

// A decoded group: 2*w signed [half][word][row 0..7][4], then float s_b[16] (NaN included), then -12 * sum(2*w) int32
// [16].
void decode(const uint8_t* tiles, int64_t tile_count, uint8_t* panel) {
  const __m256i table = code_table(0);
  const __m256i ones = _mm256_set1_epi16(1);
  const __m256i twelve = _mm256_set1_epi8(kCodeOffset);
  for (int64_t tile = 0; tile < tile_count; ++tile, tiles += kTileBytes) {
    for (int g = 0; g < kTileGroups; ++g, panel += kPanelGroupBytes) {
      for (int half = 0; half < 2; ++half) {
        const Nibbles first = split(load(tiles + 128 * g + 32 * half));
        const Nibbles second = split(load(tiles + 128 * g + 32 * half + 64));
        const __m256i w[4] = {_mm256_shuffle_epi8(table, first.low), _mm256_shuffle_epi8(table, first.high),
                              _mm256_shuffle_epi8(table, second.low), _mm256_shuffle_epi8(table, second.high)};
        __m256i sum = _mm256_setzero_si256();
        for (int word = 0; word < 4; ++word) {
          _mm256_store_si256(reinterpret_cast<__m256i*>(panel + 128 * half + 32 * word), w[word]);
          sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(twelve, w[word]));
        }
        const uint8_t* scales = tiles + kTileCodeBytes + 16 * g + 8 * half;
        const __m256 s_b = _mm256_or_ps(scale_bits(scales), nan_lanes(scales));
        _mm256_store_ps(reinterpret_cast<float*>(panel + 256 + 32 * half), s_b);
        const __m256i offset = _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_madd_epi16(sum, ones));
        _mm256_store_si256(reinterpret_cast<__m256i*>(panel + 320 + 32 * half), offset);
      }
    }
  }
}

// Here the activations are the unsigned side, so that the weights can be memory operands and own the offset. One token
// at a time is as fast as several: the broadcasts are shared by both halves, and what limits the loop is loads, not
// latency.
void panel_token(const uint8_t* panel, int64_t group_count, const uint8_t* x, const uint8_t* s_a, int64_t step,
                 float* sums) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256 acc[2] = {_mm256_loadu_ps(sums), _mm256_loadu_ps(sums + 8)};
  for (int64_t g = 0; g < group_count; ++g, panel += kPanelGroupBytes, x += step, s_a += step) {
    const __m256i x0 = broadcast_word(x);
    const __m256i x1 = broadcast_word(x + 4);
    const __m256i x2 = broadcast_word(x + 8);
    const __m256i x3 = broadcast_word(x + 12);
    for (int half = 0; half < 2; ++half) {
      const uint8_t* w = panel + 128 * half;
      const __m256i sum01 = _mm256_add_epi16(_mm256_maddubs_epi16(x0, load(w)), _mm256_maddubs_epi16(x1, load(w + 32)));
      const __m256i sum23 =
          _mm256_add_epi16(_mm256_maddubs_epi16(x2, load(w + 64)), _mm256_maddubs_epi16(x3, load(w + 96)));
      const __m256i dot = _mm256_madd_epi16(_mm256_add_epi16(sum01, sum23), ones);
      const __m256 exact = _mm256_cvtepi32_ps(_mm256_add_epi32(dot, load(panel + 320 + 32 * half)));
      const __m256 term = _mm256_mul_ps(exact, _mm256_castsi256_ps(load(panel + 256 + 32 * half)));
      acc[half] = _mm256_fmadd_ps(term, _mm256_castsi256_ps(broadcast_word(s_a)), acc[half]);
    }
  }
  _mm256_storeu_ps(sums, acc[0]);
  _mm256_storeu_ps(sums + 8, acc[1]);
}

// W4A16 decodes to bf16, which holds e2m1 exactly: one table gives its high byte and one its low byte.
alignas(16) constexpr uint8_t kBf16High[16] = {0x00, 0x3F, 0x3F, 0x3F, 0x40, 0x40, 0x40, 0x40,
                                               0x80, 0xBF, 0xBF, 0xBF, 0xC0, 0xC0, 0xC0, 0xC0};
alignas(16) constexpr uint8_t kBf16Low[16] = {0x00, 0x00, 0x80, 0xC0, 0x00, 0x40, 0x80, 0xC0,
                                              0x00, 0x00, 0x80, 0xC0, 0x00, 0x40, 0x80, 0xC0};

inline __m256i byte_table(const uint8_t (&table)[16]) {
  return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
}

inline __m256 broadcast_pair(const float* x) {
  return _mm256_castpd_ps(_mm256_broadcast_sd(reinterpret_cast<const double*>(x)));
}

// Puts scale byte r of a half into bits 16 to 23 of both lanes of its row: [0] for rows 0, 1, 4, 5 and [1] for the
// others.
alignas(32) constexpr int8_t kScaleLanes[2][32] = {{-1, -1, 0, -1, -1, -1, 0, -1, -1, -1, 1, -1, -1, -1, 1, -1,  //
                                                    -1, -1, 4, -1, -1, -1, 4, -1, -1, -1, 5, -1, -1, -1, 5, -1},
                                                   {-1, -1, 2, -1, -1, -1, 2, -1, -1, -1, 3, -1, -1, -1, 3, -1,  //
                                                    -1, -1, 6, -1, -1, -1, 6, -1, -1, -1, 7, -1, -1, -1, 7, -1}};

inline __m256 paired_scales(const uint8_t* scales, int rows) {
  int64_t eight;
  memcpy(&eight, scales, sizeof(eight));
  const __m256i placed = _mm256_shuffle_epi8(_mm256_set1_epi64x(eight), load(kScaleLanes[rows]));
  const __m256 to_value = _mm256_castsi256_ps(_mm256_set1_epi32(247 << 23));  // 2^120
  return _mm256_mul_ps(_mm256_castsi256_ps(_mm256_slli_epi32(placed, 4)), to_value);
}

// Four columns of sixteen rows, for all tokens. In a vector of floats two neighbouring lanes belong to one row, the
// even chain and the odd chain; unpacking a half leaves its rows 0, 1, 4, 5 in one vector and 2, 3, 6, 7 in the next.
// The halves take turns, so that four chains of additions are in flight.
template <int T>
inline __attribute__((always_inline)) void add_quad(__m256i first_half, __m256i second_half, const float* x, bool first,
                                                    __m256 (&group)[T][4]) {
  const __m256i odd_mask = _mm256_set1_epi32(static_cast<int>(0xFFFF0000u));
  __m256 columns02[4], columns13[4];
  for (int half = 0; half < 2; ++half) {
    const __m256i code = half ? second_half : first_half;
    const __m256i high = _mm256_shuffle_epi8(byte_table(kBf16High), code);
    const __m256i low = _mm256_shuffle_epi8(byte_table(kBf16Low), code);
    const __m256i bf16[2] = {_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high)};
    for (int i = 0; i < 2; ++i) {
      columns02[2 * half + i] = _mm256_castsi256_ps(_mm256_slli_epi32(bf16[i], 16));
      columns13[2 * half + i] = _mm256_castsi256_ps(_mm256_and_si256(bf16[i], odd_mask));
    }
  }
  for (int t = 0; t < T; ++t) {
    const __m256 x02 = broadcast_pair(x + 4 * t);
    const __m256 x13 = broadcast_pair(x + 4 * t + 2);
    for (int i = 0; i < 4; ++i) {
      const __m256 sum = first ? _mm256_mul_ps(columns02[i], x02) : _mm256_fmadd_ps(columns02[i], x02, group[t][i]);
      group[t][i] = _mm256_fmadd_ps(columns13[i], x13, sum);
    }
  }
}

template <int T>
void stream_float_block(const uint8_t* tiles, int64_t tile_count, const float* block, float* sums) {
  __m256 chain[T][4];
  for (int i = 0; i < 4 * T; ++i) chain[i / 4][i % 4] = _mm256_setzero_ps();
  __m128i nans = _mm_setzero_si128();
  for (int64_t tile = 0; tile < tile_count; ++tile, tiles += kTileBytes) {
    const uint8_t* scales = tiles + kTileCodeBytes;
    prefetch_tile(tiles);
    nans = _mm_or_si128(nans, nan_rows(scales));
    for (int g = 0; g < kTileGroups; ++g, block += kGroupSize * T) {
      __m256 group[T][4];
      for (int eight = 0; eight < 2; ++eight) {
        const uint8_t* codes = tiles + 128 * g + 64 * eight;
        const float* x = block + 8 * T * eight;
        const Nibbles first_half = split(load(codes));
        const Nibbles second_half = split(load(codes + 32));
        add_quad<T>(first_half.low, second_half.low, x, eight == 0, group);
        add_quad<T>(first_half.high, second_half.high, x + 4 * T, false, group);
      }
      for (int i = 0; i < 4; ++i) {
        const __m256 s_b = paired_scales(scales + 16 * g + 8 * (i / 2), i % 2);
        for (int t = 0; t < T; ++t) chain[t][i] = _mm256_fmadd_ps(s_b, group[t][i], chain[t][i]);
      }
    }
  }
  for (int t = 0; t < T; ++t) {
    for (int half = 0; half < 2; ++half) {
      // hadd adds each row's even and odd lane: rows 0, 1, 2, 3 | 4, 5, 6, 7.
      _mm256_storeu_ps(sums + 16 * t + 8 * half, _mm256_hadd_ps(chain[t][2 * half], chain[t][2 * half + 1]));
    }
  }
  poison(nans, T, sums);
}

void stream(const uint8_t* tiles, int64_t tile_count, const uint8_t* block, int width, float* sums) {
  switch (width) {
    case 1:
      return stream_block<1>(tiles, tile_count, block, sums);
    case 2:
      return stream_block<2>(tiles, tile_count, block, sums);
    case 3:
      return stream_block<3>(tiles, tile_count, block, sums);
    default:
      return stream_block<4>(tiles, tile_count, block, sums);
  }
}

void panel(const uint8_t* panel, int64_t group_count, const uint8_t* block, int width, float* sums) {
  for (int t = 0; t < width; ++t) {
    panel_token(panel, group_count, block + 16 * t, block + 16 * width + 4 * t, token_group_bytes(width),
                sums + 16 * t);
  }
}

void stream_float(const uint8_t* tiles, int64_t tile_count, const float* block, int width, float* sums) {
  switch (width) {
    case 1:
      return stream_float_block<1>(tiles, tile_count, block, sums);
    case 2:
      return stream_float_block<2>(tiles, tile_count, block, sums);
    case 3:
      return stream_float_block<3>(tiles, tile_count, block, sums);
    default:
      return stream_float_block<4>(tiles, tile_count, block, sums);
  }
}

}  // namespace

const GemmKernels kGemmAvx2 = {4, true, stream, decode, panel, stream_float, finish};

}  // namespace nvfp4::cpu
