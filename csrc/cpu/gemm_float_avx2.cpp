// AVX2 W4A16 kernels: exact float weights, fused multiply-add.
#include "gemm_avx2_common.h"

namespace nvfp4::cpu {
namespace {

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
void stream_block(const uint8_t* tiles, int64_t tile_count, const float* block, float* sums) {
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

// The value (not twice the value) of one column of eight rows, from words of four signed bytes that hold twice the
// value.
inline __m256 column_floats(__m256i twice, int column) {
  const __m256i top = _mm256_sllv_epi32(twice, _mm256_set1_epi32(24 - 8 * column));
  return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srai_epi32(top, 24)), _mm256_set1_ps(0.5f));
}

void decode(const uint8_t* tiles, int64_t tile_count, void* decoded) {
  float* panel = static_cast<float*>(decoded);
  const __m256i table = code_table(0);
  const __m256 to_value = _mm256_castsi256_ps(_mm256_set1_epi32(247 << 23));  // 2^120
  for (int64_t tile = 0; tile < tile_count; ++tile, tiles += kTileBytes) {
    for (int g = 0; g < kTileGroups; ++g, panel += kFloatPanelGroup) {
      for (int half = 0; half < 2; ++half) {
        for (int eight = 0; eight < 2; ++eight) {
          const Nibbles nibbles = split(load(tiles + 128 * g + 64 * eight + 32 * half));
          const __m256i low = _mm256_shuffle_epi8(table, nibbles.low);
          const __m256i high = _mm256_shuffle_epi8(table, nibbles.high);
          float* out = panel + 128 * eight + 8 * half;
          for (int column = 0; column < 4; ++column) {
            _mm256_store_ps(out + 16 * column, column_floats(low, column));
            _mm256_store_ps(out + 16 * column + 64, column_floats(high, column));
          }
        }
        const uint8_t* scales = tiles + kTileCodeBytes + 16 * g + 8 * half;
        const __m256 s_b = _mm256_or_ps(_mm256_mul_ps(scale_bits(scales), to_value), nan_lanes(scales));
        _mm256_store_ps(panel + 256 + 8 * half, s_b);
      }
    }
  }
}

// One chain (columns 0, 1 or 2, 3 of every four) of all sixteen rows for T tokens: 2 * T sums stay in registers, enough
// to hide the latency of the additions. `x` points to the chain's first column of the first token.
template <int T>
inline __attribute__((always_inline)) void panel_chain(const float* w, const float* s_b, const float* x, int width,
                                                       float* chains) {
  __m256 sum[T][2];
  for (int quad = 0; quad < 4; ++quad, w += 64, x += 4 * width) {
    for (int column = 0; column < 2; ++column) {
      const __m256 w_low = _mm256_load_ps(w + 16 * column);
      const __m256 w_high = _mm256_load_ps(w + 16 * column + 8);
      for (int t = 0; t < T; ++t) {
        const __m256 value = _mm256_broadcast_ss(x + 4 * t + 2 * column);
        const bool first = quad == 0 && column == 0;
        sum[t][0] = first ? _mm256_mul_ps(w_low, value) : _mm256_fmadd_ps(w_low, value, sum[t][0]);
        sum[t][1] = first ? _mm256_mul_ps(w_high, value) : _mm256_fmadd_ps(w_high, value, sum[t][1]);
      }
    }
  }
  for (int t = 0; t < T; ++t) {
    for (int half = 0; half < 2; ++half) {
      float* chain = chains + 32 * t + 8 * half;
      const __m256 scale = _mm256_load_ps(s_b + 8 * half);
      _mm256_storeu_ps(chain, _mm256_fmadd_ps(scale, sum[t][half], _mm256_loadu_ps(chain)));
    }
  }
}

template <int T>
void panel_block(const float* panel, int64_t group_count, const float* block, float* chains) {
  for (int64_t g = 0; g < group_count; ++g, panel += kFloatPanelGroup, block += kGroupSize * T) {
    panel_chain<T>(panel, panel + 256, block, T, chains);
    panel_chain<T>(panel + 32, panel + 256, block + 1, T, chains + 16);
  }
}

void stream(const uint8_t* tiles, int64_t tile_count, const void* block, int width, float* sums) {
  const float* x = static_cast<const float*>(block);
  switch (width) {
    case 1:
      return stream_block<1>(tiles, tile_count, x, sums);
    case 2:
      return stream_block<2>(tiles, tile_count, x, sums);
    case 3:
      return stream_block<3>(tiles, tile_count, x, sums);
    default:
      return stream_block<4>(tiles, tile_count, x, sums);
  }
}

void panel(const void* panel, int64_t group_count, const void* block, int width, float* chains) {
  const float* w = static_cast<const float*>(panel);
  const float* x = static_cast<const float*>(block);
  switch (width) {
    case 1:
      return panel_block<1>(w, group_count, x, chains);
    case 2:
      return panel_block<2>(w, group_count, x, chains);
    case 3:
      return panel_block<3>(w, group_count, x, chains);
    default:
      return panel_block<4>(w, group_count, x, chains);
  }
}

}  // namespace

const FloatGemmKernels kFloatGemmAvx2 = {{4, 1.0, 2.5}, 4, kFloatPanelGroupBytes, 4, stream, decode, panel};

}  // namespace nvfp4::cpu
