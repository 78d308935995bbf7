// Quantisation with 256-bit vectors: eight blocks' scales at a time, sixteen 16-bit elements or eight floats.
#include <immintrin.h>

#include "quantize_kernel.h"

namespace nvfp4::cpu {
namespace {

struct Avx2 {
  static constexpr int kLanes = 8;
  static constexpr int64_t kAmaxBlocks = 16;
  using F = Lanes<kLanes>::F;
  using U = Lanes<kLanes>::U;
  using I = Lanes<kLanes>::I;

  static F fma(F a, F b, F c) {
    return reinterpret_cast<F>(
        _mm256_fmadd_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b), reinterpret_cast<__m256>(c)));
  }

  static F min(F a, F b) {
    return reinterpret_cast<F>(_mm256_min_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
  }
  static F max(F a, F b) {
    return reinterpret_cast<F>(_mm256_max_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
  }

  static void store_bytes(uint8_t* to, U x) {
    const __m256i bytes = reinterpret_cast<__m256i>(x);
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(words, words));
  }

  static U repeat_high_half(U x) {
    const __m256i order =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(2, 3, 2, 3, 6, 7, 6, 7, 10, 11, 10, 11, 14, 15, 14, 15));
    return reinterpret_cast<U>(_mm256_shuffle_epi8(reinterpret_cast<__m256i>(x), order));
  }

  static bool all(I mask) { return _mm256_movemask_ps(reinterpret_cast<__m256>(mask)) == 0xFF; }

  static __m256i load(const uint8_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
  static void store(void* to, __m256i x) { _mm256_storeu_si256(static_cast<__m256i*>(to), x); }

  template <int kSelect>
  static __m256i shuffle32(__m256i a, __m256i b) {
    return _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), kSelect));
  }

  template <DType kDType>
  static void amax_blocks(const uint8_t* x, int64_t count, float* amax) {
    alignas(32) float result[kAmaxBlocks];
    float* to = count == kAmaxBlocks ? amax : result;
    if constexpr (kDType == DType::kFloat32) {
      amax_floats(x, 0, count, to);
      if (count > 8) amax_floats(x, 8, count, to + 8);
    } else {
      const __m256i words = amax_words(x, count);
      if constexpr (kDType == DType::kBFloat16) {
        const __m256i zero = _mm256_setzero_si256();
        const __m256i low = _mm256_unpacklo_epi16(zero, words), high = _mm256_unpackhi_epi16(zero, words);
        store(to, _mm256_permute2x128_si256(low, high, 0x20));
        store(to + 8, _mm256_permute2x128_si256(low, high, 0x31));
      } else {
        _mm256_storeu_ps(to, _mm256_cvtph_ps(_mm256_castsi256_si128(words)));
        _mm256_storeu_ps(to + 8, _mm256_cvtph_ps(_mm256_extracti128_si256(words, 1)));
      }
    }
    if (count < kAmaxBlocks) memcpy(amax, result, count * sizeof(float));
  }

  // The largest magnitudes of sixteen blocks of 16-bit elements, in order. Missing blocks repeat the last one. Every
  // step halves the candidates of each block and the number of vectors.
  static __m256i amax_words(const uint8_t* x, int64_t count) {
    const __m256i magnitude = _mm256_set1_epi16(0x7FFF);
    auto block = [&](int64_t b) { return _mm256_and_si256(load(x + 32 * (b < count ? b : count - 1)), magnitude); };
    auto max = [](__m256i a, __m256i b) { return _mm256_max_epi16(a, b); };
    __m256i w[8], y[4], z[2];
    for (int j = 0; j < 8; ++j) {
      const __m256i a = block(j), b = block(j + 8);
      w[j] = max(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
    }
    for (int j = 0; j < 4; ++j)
      y[j] = max(_mm256_unpacklo_epi64(w[j], w[j + 4]), _mm256_unpackhi_epi64(w[j], w[j + 4]));
    for (int j = 0; j < 2; ++j) z[j] = max(shuffle32<0x88>(y[j], y[j + 2]), shuffle32<0xDD>(y[j], y[j + 2]));
    const __m256i even = _mm256_blend_epi16(z[0], _mm256_slli_epi32(z[1], 16), 0xAA);
    const __m256i odd = _mm256_blend_epi16(_mm256_srli_epi32(z[0], 16), z[1], 0xAA);
    return _mm256_shuffle_epi32(max(even, odd), 0xD8);  // pairs of blocks 0, 4, 2, 6 back in order
  }

  // The same for eight blocks of floats, from block `first`.
  static void amax_floats(const uint8_t* x, int64_t first, int64_t count, float* amax) {
    const __m256i magnitude = _mm256_set1_epi32(0x7FFFFFFF);
    auto max = [](__m256i a, __m256i b) { return _mm256_max_epi32(a, b); };
    auto block = [&](int64_t b) {
      const uint8_t* from = x + 64 * (first + b < count ? first + b : count - 1);
      return max(_mm256_and_si256(load(from), magnitude), _mm256_and_si256(load(from + 32), magnitude));
    };
    __m256i w[4], y[2];
    for (int j = 0; j < 4; ++j) {
      const __m256i a = block(j), b = block(j + 4);
      w[j] = max(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
    }
    for (int j = 0; j < 2; ++j)
      y[j] = max(_mm256_unpacklo_epi64(w[j], w[j + 2]), _mm256_unpackhi_epi64(w[j], w[j + 2]));
    const __m256i z = max(shuffle32<0x88>(y[0], y[1]), shuffle32<0xDD>(y[0], y[1]));  // blocks 0, 2, 1, 3
    store(amax, _mm256_shuffle_epi32(z, 0xD8));
  }

  // A block's codes, negated, in sixteen 16-bit lanes.
  template <DType kDType, bool kDropZeroSign>
  static __m256i negated_codes(const uint8_t* x, const Thresholds& t, int block) {
    auto threshold = [&](int i) { return _mm256_set1_epi32(static_cast<int>(t.at[i][block])); };
    if constexpr (kDType == DType::kFloat32) {
      auto half = [&](const uint8_t* from) {
        const __m256i raw = load(from);
        const __m256i magnitude = _mm256_and_si256(raw, _mm256_set1_epi32(0x7FFFFFFF));
        __m256i sum = _mm256_and_si256(_mm256_srai_epi32(raw, 31), _mm256_set1_epi32(-8));
        if constexpr (kDropZeroSign) {
          sum = _mm256_and_si256(sum, _mm256_cmpgt_epi32(magnitude, threshold(kSignThreshold)));
        }
        for (int i = 0; i < 7; ++i) sum = _mm256_add_epi32(sum, _mm256_cmpgt_epi32(magnitude, threshold(i)));
        return sum;
      };
      return _mm256_permute4x64_epi64(_mm256_packs_epi32(half(x), half(x + 32)), 0xD8);
    } else {
      const __m256i raw = load(x);
      const __m256i magnitude = _mm256_and_si256(raw, _mm256_set1_epi16(0x7FFF));
      __m256i sum = _mm256_and_si256(_mm256_srai_epi16(raw, 15), _mm256_set1_epi16(-8));
      if constexpr (kDropZeroSign) {
        sum = _mm256_and_si256(sum, _mm256_cmpgt_epi16(magnitude, threshold(kSignThreshold)));
      }
      for (int i = 0; i < 7; ++i) sum = _mm256_add_epi16(sum, _mm256_cmpgt_epi16(magnitude, threshold(i)));
      return sum;
    }
  }

  // The bytes of four blocks.
  template <DType kDType, bool kDropZeroSign>
  static __m256i four_blocks(const uint8_t* x, const Thresholds& t, int b0, int b1, int b2, int b3) {
    const int64_t block_bytes = kGroupSize * dtype_bytes(kDType);
    auto pairs = [&](int block) {
      const __m256i weights = _mm256_set1_epi32(static_cast<int>(0xFFF0FFFFu));  // -1, -16: code pairs to bytes
      return _mm256_madd_epi16(negated_codes<kDType, kDropZeroSign>(x + block * block_bytes, t, block), weights);
    };
    const __m256i low = _mm256_packs_epi32(pairs(b0), pairs(b1)), high = _mm256_packs_epi32(pairs(b2), pairs(b3));
    return _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  }

  template <DType kDType, bool kDropZeroSign>
  static void codes(const uint8_t* x, const Thresholds& t, int count, uint8_t* packed) {
    int b = 0;
    for (; b + 4 <= count; b += 4) {
      store(packed + 8 * b, four_blocks<kDType, kDropZeroSign>(x, t, b, b + 1, b + 2, b + 3));
    }
    if (b == count) return;
    const int last = count - 1;
    alignas(32) uint8_t whole[32];
    store(whole,
          four_blocks<kDType, kDropZeroSign>(x, t, b, b < last ? b + 1 : last, b + 1 < last ? b + 2 : last, last));
    memcpy(packed + 8 * b, whole, 8 * (count - b));
  }
};

}  // namespace

const QuantizeKernels& quantize_kernels_avx2() {
  static constexpr QuantizeKernels kernels{Quantizer<Avx2>::amax, Quantizer<Avx2>::codes};
  return kernels;
}

}  // namespace nvfp4::cpu
