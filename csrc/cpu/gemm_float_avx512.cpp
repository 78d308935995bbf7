// AVX-512 W4A16 kernels: exact float weights, fused multiply-add. They serve CPUs with and without VNNI.
#include "gemm_avx512_common.h"

namespace nvfp4::cpu {
namespace {

inline __m512 value_table() {
  return _mm512_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f,  //
                        -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f);
}

// W4A16: a permute picks the float32 value of every row's code from one register; it looks at the low four bits only.
template <int T>
void stream_floats(const uint8_t* tiles, int64_t tile_count, const float* block, float* sums) {
  const __m512 values = value_table();
  const __m512 to_value = _mm512_castsi512_ps(_mm512_set1_epi32(247 << 23));  // 2^120
  __m512 even[T], odd[T];
  for (int t = 0; t < T; ++t) even[t] = odd[t] = _mm512_setzero_ps();
  for (int64_t tile = 0; tile < tile_count; ++tile, tiles += kTileBytes) {
    prefetch_tile(tiles);
    for (int g = 0; g < kTileGroups; ++g, block += kGroupSize * T) {
      __m512 group_even[T], group_odd[T];
      for (int t = 0; t < T; ++t) group_even[t] = group_odd[t] = _mm512_setzero_ps();
      for (int quad = 0; quad < 4; ++quad) {
        // Row's word: columns 0 to 3 in the low nibbles of its bytes (even quads) or in the high ones.
        const __m512i word = _mm512_srli_epi32(load(tiles + 128 * g + 64 * (quad / 2)), 4 * (quad % 2));
        const __m512 w0 = _mm512_permutexvar_ps(word, values);
        const __m512 w1 = _mm512_permutexvar_ps(_mm512_srli_epi32(word, 8), values);
        const __m512 w2 = _mm512_permutexvar_ps(_mm512_srli_epi32(word, 16), values);
        const __m512 w3 = _mm512_permutexvar_ps(_mm512_srli_epi32(word, 24), values);
        for (int t = 0; t < T; ++t) {
          const float* x = block + 4 * (T * quad + t);  // columns 0, 2, 1, 3
          group_even[t] = _mm512_fmadd_ps(w0, _mm512_set1_ps(x[0]), group_even[t]);
          group_odd[t] = _mm512_fmadd_ps(w2, _mm512_set1_ps(x[1]), group_odd[t]);
          group_even[t] = _mm512_fmadd_ps(w1, _mm512_set1_ps(x[2]), group_even[t]);
          group_odd[t] = _mm512_fmadd_ps(w3, _mm512_set1_ps(x[3]), group_odd[t]);
        }
      }
      const __m512 s_b = _mm512_mul_ps(scale_bits(tiles + kTileCodeBytes + 16 * g), to_value);
      for (int t = 0; t < T; ++t) {
        even[t] = _mm512_fmadd_ps(s_b, group_even[t], even[t]);
        odd[t] = _mm512_fmadd_ps(s_b, group_odd[t], odd[t]);
      }
    }
  }
  for (int t = 0; t < T; ++t) _mm512_storeu_ps(sums + 16 * t, _mm512_add_ps(even[t], odd[t]));
}

void decode_floats(const uint8_t* tiles, int64_t tile_count, void* decoded) {
  float* panel = static_cast<float*>(decoded);
  const __m512 values = value_table();
  const __m512 to_value = _mm512_castsi512_ps(_mm512_set1_epi32(247 << 23));  // 2^120
  for (int64_t tile = 0; tile < tile_count; ++tile, tiles += kTileBytes) {
    for (int g = 0; g < kTileGroups; ++g, panel += kFloatPanelGroup) {
      for (int column = 0; column < kGroupSize; ++column) {
        const __m512i codes = load(tiles + 128 * g + 64 * (column / 8));
        const __m512i word = _mm512_srlv_epi32(codes, _mm512_set1_epi32(4 * (column / 4 % 2) + 8 * (column % 4)));
        _mm512_store_ps(panel + 16 * column, _mm512_permutexvar_ps(word, values));
      }
      _mm512_store_ps(panel + 256, _mm512_mul_ps(scale_bits(tiles + kTileCodeBytes + 16 * g), to_value));
    }
  }
}

template <int T>
void panel_floats(const float* panel, int64_t group_count, const float* block, float* chains) {
  __m512 even[T], odd[T];
  for (int t = 0; t < T; ++t) {
    even[t] = _mm512_loadu_ps(chains + 32 * t);
    odd[t] = _mm512_loadu_ps(chains + 32 * t + 16);
  }
  for (int64_t g = 0; g < group_count; ++g, panel += kFloatPanelGroup, block += kGroupSize * T) {
    for (int parity = 0; parity < 2; ++parity) {
      __m512 group[T];
      for (int t = 0; t < T; ++t) group[t] = _mm512_setzero_ps();
      for (int i = 0; i < 8; ++i) {
        // A block's four floats are columns 0, 2, 1, 3.
        const __m512 w = _mm512_load_ps(panel + 16 * (4 * (i / 2) + 2 * parity + i % 2));
        const float* x = block + 4 * T * (i / 2) + 2 * (i % 2) + parity;
        for (int t = 0; t < T; ++t) group[t] = _mm512_fmadd_ps(w, _mm512_set1_ps(x[4 * t]), group[t]);
      }
      const __m512 s_b = _mm512_load_ps(panel + 256);
      __m512(&chain)[T] = parity ? odd : even;
      for (int t = 0; t < T; ++t) chain[t] = _mm512_fmadd_ps(s_b, group[t], chain[t]);
    }
  }
  for (int t = 0; t < T; ++t) {
    _mm512_storeu_ps(chains + 32 * t, even[t]);
    _mm512_storeu_ps(chains + 32 * t + 16, odd[t]);
  }
}

void stream_any(const uint8_t* tiles, int64_t tile_count, const void* block, int width, float* sums) {
  const float* x = static_cast<const float*>(block);
  with_width(width, [&](auto tag) { stream_floats<decltype(tag)::value>(tiles, tile_count, x, sums); });
}

void panel_any(const void* panel, int64_t group_count, const void* block, int width, float* chains) {
  const float* w = static_cast<const float*>(panel);
  const float* x = static_cast<const float*>(block);
  with_width(width, [&](auto tag) { panel_floats<decltype(tag)::value>(w, group_count, x, chains); });
}

}  // namespace

const FloatGemmKernels kFloatGemmAvx512 = {{8, 1.0, 2.5}, 4,        kFloatPanelGroupBytes, 4, stream_any,
                                           decode_floats, panel_any};

}  // namespace nvfp4::cpu
