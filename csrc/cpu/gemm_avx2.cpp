// AVX2 gemm kernels: eight weight rows in a vector, 8-bit multiply-add of unsigned by signed bytes.
#include "gemm_avx2_common.h"
#include "gemm_epilogue.h"

namespace nvfp4::cpu {
namespace {

inline __m256i dot_pairs(const __m256i (&w)[4], const uint8_t* x) {
  __m256i sum = _mm256_maddubs_epi16(w[0], broadcast_word(x));
  sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(w[1], broadcast_word(x + 4)));
  const __m256i rest = _mm256_maddubs_epi16(w[2], broadcast_word(x + 8));
  return _mm256_add_epi16(sum, _mm256_add_epi16(rest, _mm256_maddubs_epi16(w[3], broadcast_word(x + 12))));
}

// 1.5 * 2^23: an integer added to its bits comes out as this number plus the integer. So a sum of products is a float
// without being converted, and since the number times a block scale is exact, one fused multiply-subtract takes it off
// again and multiplies by the scale: f * s_b - kMagic * s_b has the sum times s_b as its exact result.
constexpr float kMagic = 12582912.0f;
constexpr int32_t kMagicBits = 0x4B400000;

// Weights are decoded in registers to 2*w + 12 and used at once by all tokens of the block.
template <int T>
void stream_block(const uint8_t* tiles, int64_t tile_count, const uint8_t* block, float* sums) {
  const __m256i table = code_table(kCodeOffset);
  const __m256i ones = _mm256_set1_epi16(1);
  const __m256 magic = _mm256_set1_ps(kMagic);
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
        const __m256 magic_s_b = _mm256_mul_ps(magic, s_b);
        const uint8_t* x = block + g * token_group_bytes(T);
        const uint8_t* s_a = x + 16 * T;
        const uint8_t* offset = s_a + 4 * T;
        for (int t = 0; t < T; ++t) {
          const __m256i pairs = dot_pairs(w, x + 16 * t);
          const __m256i biased = _mm256_add_epi32(_mm256_madd_epi16(pairs, ones), broadcast_word(offset + 4 * t));
          const __m256 term = _mm256_fmsub_ps(_mm256_castsi256_ps(biased), s_b, magic_s_b);
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

}  // namespace

const GemmKernels kGemmAvx2 = {{4, 1.0, 2.5}, true, kMagicBits, stream, decode, panel, finish};

}  // namespace nvfp4::cpu
