// W4A16 kernels for CPUs that multiply pairs of bfloat16: value times block scale has at most six significant bits, so
// a scaled weight is exact in bfloat16, and one instruction adds two of its products to each of sixteen rows' sums.
//
// A 32-bit lane holds a pair of columns of one row: 0 and 2, or 1 and 3, of every four, as the tiles' nibbles lie.
#include "gemm_avx512_common.h"

namespace nvfp4::cpu {
namespace {

constexpr int64_t kPanelBytes = 512;  // of a group: [quad 0..3][even, odd][row 0..15][2]
constexpr int kCodeBits = 4;

inline __m512 add_pair(__m512 sum, __m512i weights, const uint8_t* x) {
  return _mm512_dpbf16_ps(sum, (__m512bh)weights, (__m512bh)broadcast_word(x));
}

// The shift that brings the codes of a quad's even or odd columns to the low bits of the 16-bit lanes.
constexpr int pair_shift(int quad, int odd) { return kCodeBits * (quad % 2) + 8 * odd; }

// Scales of any kind, also the zeros that pad a tile: the product in float32, whose upper half is the bfloat16, since
// the bits below are zeros.
struct AnyScales {
  __m512 s_b, values;
  explicit AnyScales(const uint8_t* p) : s_b(scale_bits(p)) {
    const __m512 table = _mm512_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f,  //
                                        -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f);
    values = _mm512_mul_ps(table, _mm512_castsi512_ps(_mm512_set1_epi32(247 << 23)));  // 2^120: see scale_bits
  }
  __m512i pair(__m512i codes, int shift) const {
    // A permute looks at the low four bits of each lane only.
    const __m512i code0 = _mm512_srli_epi32(codes, shift), code1 = _mm512_srli_epi32(codes, shift + 16);
    const __m512i first = _mm512_castps_si512(_mm512_mul_ps(_mm512_permutexvar_ps(code0, values), s_b));
    const __m512i second = _mm512_castps_si512(_mm512_mul_ps(_mm512_permutexvar_ps(code1, values), s_b));
    return _mm512_or_si512(second, _mm512_srli_epi32(first, 16));
  }
};

// Scales that are normal numbers, which is all of them but for damaged or empty blocks: the product by integer
// arithmetic on bfloat16's bits. A value is a power of two, which adds to the scale's exponent, or one and a half times
// that, which adds to the exponent of 1.5 * s_b. Zero's entry saturates at 0x8000, the bits of -0.
struct NormalScales {
  static constexpr int kBias = 0x4480;  // above the bits of every scale and of 1.5 * it, so that zeros saturate
  alignas(64) static constexpr uint16_t kValues[16] = {0x8000,
                                                       kBias - 128,
                                                       kBias,
                                                       kBias + 1,
                                                       kBias + 128,
                                                       kBias + 129,
                                                       kBias + 256,
                                                       kBias + 257,  //
                                                       0x8000,
                                                       0x8000 | (kBias - 128),
                                                       0x8000 | kBias,
                                                       0x8000 | (kBias + 1),
                                                       0x8000 | (kBias + 128),
                                                       0x8000 | (kBias + 129),
                                                       0x8000 | (kBias + 256),
                                                       0x8000 | (kBias + 257)};
  // Bits of 1.5 * s less bits of s, for the eight mantissas of an e4m3 number, and less the 1 that marks such values.
  alignas(16) static constexpr uint16_t kHalfMore[8] = {63, 71, 79, 83, 79, 75, 71, 67};

  __m512i values, minus_scale, minus_half_more;

  explicit NormalScales(const uint8_t* p) {
    // A permute of words looks at the low five bits of each, so tables of sixteen stand twice and of eight four times.
    values = _mm512_broadcast_i64x4(_mm256_load_si256(reinterpret_cast<const __m256i*>(kValues)));
    const __m512i half_more = _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(kHalfMore)));
    // Row r's byte into both words of lane r: words of 4 * lane + {0, 0}, as s_b's bits are (byte << 4) + (120 << 7).
    const __m512i place = _mm512_add_epi8(_mm512_set4_epi32(0x80038003, 0x80028002, 0x80018001, 0x80008000),
                                          _mm512_set_epi32(0x000C000C, 0x000C000C, 0x000C000C, 0x000C000C,  //
                                                           0x00080008, 0x00080008, 0x00080008, 0x00080008,  //
                                                           0x00040004, 0x00040004, 0x00040004, 0x00040004,  //
                                                           0, 0, 0, 0));
    const __m512i all = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    const __m512i byte = _mm512_shuffle_epi8(all, place);
    const __m512i bias = _mm512_set1_epi16(kBias - (120 << 7));
    minus_scale = _mm512_sub_epi16(bias, _mm512_slli_epi16(byte, 4));
    minus_half_more = _mm512_sub_epi16(minus_scale, _mm512_permutexvar_epi16(byte, half_more));
  }
  __m512i pair(__m512i codes, int shift) const {
    const __m512i value = _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, shift), values);
    const __mmask32 half_more = _mm512_test_epi16_mask(value, _mm512_set1_epi16(1));
    return _mm512_subs_epi16(value, _mm512_mask_blend_epi16(half_more, minus_scale, minus_half_more));
  }
};

// Whether each of a tile's 64 scales is a normal number: 0x08 to 0x7E.
inline bool has_normal_scales(const uint8_t* tile) {
  const __m512i above = _mm512_sub_epi8(load(tile + kTileCodeBytes), _mm512_set1_epi8(8));
  return _mm512_cmpgt_epu8_mask(above, _mm512_set1_epi8(0x7E - 8)) == 0;
}

// Calls use(quad, even, odd) for the scaled weights of every four columns of a tile.
template <typename Scales, typename Use>
inline __attribute__((always_inline)) void scale_tile(const uint8_t* tile, Use use) {
  for (int g = 0; g < kTileGroups; ++g) {
    const Scales scales(tile + kTileCodeBytes + 16 * g);
    for (int quad = 0; quad < 4; ++quad) {
      const __m512i codes = load(tile + 128 * g + 64 * (quad / 2));
      use(4 * g + quad, scales.pair(codes, pair_shift(quad, 0)), scales.pair(codes, pair_shift(quad, 1)));
    }
  }
}

template <typename Use>
inline __attribute__((always_inline)) void scale_any_tile(const uint8_t* tile, Use use) {
  if (has_normal_scales(tile)) {
    scale_tile<NormalScales>(tile, use);
  } else {
    scale_tile<AnyScales>(tile, use);
  }
}

template <int T>
void stream_pairs(const uint8_t* tiles, int64_t tile_count, const uint8_t* block, float* sums) {
  __m512 even[T], odd[T];
  for (int t = 0; t < T; ++t) even[t] = odd[t] = _mm512_setzero_ps();
  for (int64_t tile = 0; tile < tile_count; ++tile, tiles += kTileBytes, block += 2 * kTileCols * T) {
    prefetch_tile(tiles);
    scale_any_tile(tiles, [&](int quad, __m512i w_even, __m512i w_odd) {
      const uint8_t* x = block + 8 * T * quad;
      for (int t = 0; t < T; ++t) {
        even[t] = add_pair(even[t], w_even, x + 8 * t);
        odd[t] = add_pair(odd[t], w_odd, x + 8 * t + 4);
      }
    });
  }
  for (int t = 0; t < T; ++t) _mm512_storeu_ps(sums + 16 * t, _mm512_add_ps(even[t], odd[t]));
}

void decode_scaled(const uint8_t* tiles, int64_t tile_count, void* decoded) {
  uint8_t* panel = static_cast<uint8_t*>(decoded);
  for (int64_t tile = 0; tile < tile_count; ++tile, tiles += kTileBytes, panel += kTileGroups * kPanelBytes) {
    scale_any_tile(tiles, [&](int quad, __m512i even, __m512i odd) {
      _mm512_store_si512(panel + 128 * quad, even);
      _mm512_store_si512(panel + 128 * quad + 64, odd);
    });
  }
}

template <int T>
void panel_pairs(const uint8_t* panel, int64_t group_count, const uint8_t* block, float* chains) {
  // Loops over the sums are unrolled before anything else, or GCC keeps a copy of the sums in memory.
  __m512 sum[2 * T];
#pragma GCC unroll 16
  for (int i = 0; i < 2 * T; ++i) sum[i] = _mm512_loadu_ps(chains + 16 * i);
  for (int64_t quad = 0; quad < 4 * group_count; ++quad, panel += 128, block += 8 * T) {
    const __m512i weights[2] = {load(panel), load(panel + 64)};
#pragma GCC unroll 16
    for (int i = 0; i < 2 * T; ++i) sum[i] = add_pair(sum[i], weights[i % 2], block + 4 * i);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 2 * T; ++i) _mm512_storeu_ps(chains + 16 * i, sum[i]);
}

void stream_any(const uint8_t* tiles, int64_t tile_count, const void* block, int width, float* sums) {
  const uint8_t* x = static_cast<const uint8_t*>(block);
  with_width(width, [&](auto tag) { stream_pairs<decltype(tag)::value>(tiles, tile_count, x, sums); });
}

void panel_any(const void* panel, int64_t group_count, const void* block, int width, float* chains) {
  const uint8_t* w = static_cast<const uint8_t*>(panel);
  const uint8_t* x = static_cast<const uint8_t*>(block);
  with_width(width, [&](auto tag) { panel_pairs<decltype(tag)::value>(w, group_count, x, chains); });
}

}  // namespace

const FloatGemmKernels kBFloat16GemmAvx512 = {{8, 2.5, 4.0}, 2, kPanelBytes, 8, stream_any, decode_scaled, panel_any};

}  // namespace nvfp4::cpu
