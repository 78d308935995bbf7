// Quantisation with 512-bit vectors: sixteen blocks' scales at a time, thirty-two 16-bit elements or sixteen floats.
#include <immintrin.h>

// GCC's own header starts its intrinsics' unmasked forms from an uninitialised register, and warns of that where it
// inlines them.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#include "quantize_kernel.h"

namespace nvfp4::cpu {
namespace {

struct Avx512 {
  static constexpr int kLanes = 16;
  static constexpr int64_t kAmaxBlocks = 16;
  using F = Lanes<kLanes>::F;
  using U = Lanes<kLanes>::U;
  using I = Lanes<kLanes>::I;

  static __m512 f(F x) { return reinterpret_cast<__m512>(x); }
  static __m512i i(U x) { return reinterpret_cast<__m512i>(x); }

  static F fma(F a, F b, F c) { return reinterpret_cast<F>(_mm512_fmadd_ps(f(a), f(b), f(c))); }
  static F min(F a, F b) { return reinterpret_cast<F>(_mm512_min_ps(f(a), f(b))); }
  static F max(F a, F b) { return reinterpret_cast<F>(_mm512_max_ps(f(a), f(b))); }
  static bool all(I mask) { return _mm512_movepi32_mask(reinterpret_cast<__m512i>(mask)) == 0xFFFF; }

  static void store_bytes(uint8_t* to, U x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(i(x)));
  }

  static U repeat_high_half(U x) {
    const __m512i low = _mm512_srli_epi32(i(x), 16);
    return reinterpret_cast<U>(_mm512_mask_mov_epi16(low, 0xAAAAAAAAu, i(x)));
  }

  static __m512i load(const uint8_t* from) { return _mm512_loadu_si512(from); }
  static __m256i load256(const uint8_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }

  // 128-bit lanes 0 and 2, or 1 and 3, of a and then of b.
  template <int kSelect>
  static __m512i lanes(__m512i a, __m512i b) {
    return _mm512_shuffle_i32x4(a, b, kSelect);
  }

  template <int kSelect>
  static __m512i shuffle32(__m512i a, __m512i b) {
    return _mm512_castps_si512(_mm512_shuffle_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), kSelect));
  }

  // Missing blocks repeat the last one. Every step halves the candidates of each block and the number of vectors.
  template <DType kDType>
  static void amax_blocks(const uint8_t* x, int64_t count, float* amax) {
    auto index = [&](int64_t b) { return b < count ? b : count - 1; };
    auto max = [](__m512i a, __m512i b) { return _mm512_max_epi32(a, b); };
    auto max16 = [](__m512i a, __m512i b) { return _mm512_max_epi16(a, b); };
    // Lane L of w[j] holds candidates of block 4 j + L: eight words, or four floats.
    __m512i w[4];
    if constexpr (kDType == DType::kFloat32) {
      const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF);
      auto block = [&](int64_t b) { return _mm512_and_si512(load(x + 64 * index(b)), magnitude); };
      auto halves = [&](int64_t b) {
        const __m512i p = block(b), q = block(b + 1);
        return max(lanes<0x88>(p, q), lanes<0xDD>(p, q));
      };
      for (int j = 0; j < 4; ++j) {
        const __m512i p = halves(4 * j), q = halves(4 * j + 2);
        w[j] = max(lanes<0x88>(p, q), lanes<0xDD>(p, q));
      }
    } else {
      const __m512i magnitude = _mm512_set1_epi16(0x7FFF);
      auto pair = [&](int64_t b) {
        const __m512i low = _mm512_castsi256_si512(load256(x + 32 * index(b)));
        return _mm512_and_si512(_mm512_inserti64x4(low, load256(x + 32 * index(b + 1)), 1), magnitude);
      };
      for (int j = 0; j < 4; ++j) {
        const __m512i p = pair(4 * j), q = pair(4 * j + 2);
        w[j] = max16(lanes<0x88>(p, q), lanes<0xDD>(p, q));
      }
    }
    auto halve64 = [&](__m512i a, __m512i b) {
      const __m512i low = _mm512_unpacklo_epi64(a, b), high = _mm512_unpackhi_epi64(a, b);
      return kDType == DType::kFloat32 ? max(low, high) : max16(low, high);
    };
    auto halve32 = [&](__m512i a, __m512i b) {
      const __m512i low = shuffle32<0x88>(a, b), high = shuffle32<0xDD>(a, b);
      return kDType == DType::kFloat32 ? max(low, high) : max16(low, high);
    };
    // Lane L now holds blocks L, 4 + L, 8 + L, 12 + L: a transpose away from order.
    const __m512i z = halve32(halve64(w[0], w[1]), halve64(w[2], w[3]));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i result = _mm512_permutexvar_epi32(order, z);
    if constexpr (kDType != DType::kFloat32) {
      const __m512i words = max16(result, _mm512_srli_epi32(result, 16));  // in the low halves
      if constexpr (kDType == DType::kBFloat16) {
        result = _mm512_slli_epi32(words, 16);
      } else {
        result = _mm512_castps_si512(_mm512_cvtph_ps(_mm512_cvtepi32_epi16(words)));
      }
    }
    const auto valid = static_cast<__mmask16>(0xFFFFu >> (kAmaxBlocks - count));
    _mm512_mask_storeu_epi32(amax, valid, result);
  }

  // Threshold i of the blocks in the lower and the upper half of a vector.
  static __m512i threshold(const Thresholds& t, int i, int low, int high) {
    const __m512i both = _mm512_set1_epi32(static_cast<int>(t.at[i][low]));
    return low == high ? both : _mm512_mask_set1_epi32(both, 0xFF00, static_cast<int>(t.at[i][high]));
  }

  // The codes of two blocks of 16-bit elements, or of one block of floats, in lanes of the elements' size.
  template <DType kDType, bool kDropZeroSign>
  static __m512i element_codes(__m512i raw, const Thresholds& t, int low, int high) {
    if constexpr (kDType == DType::kFloat32) {
      const __m512i magnitude = _mm512_and_si512(raw, _mm512_set1_epi32(0x7FFFFFFF));
      const __m512i one = _mm512_set1_epi32(1);
      __mmask16 negative = _mm512_movepi32_mask(raw);
      if constexpr (kDropZeroSign) {
        negative &= _mm512_cmpgt_epi32_mask(magnitude, threshold(t, kSignThreshold, low, high));
      }
      __m512i sum = _mm512_maskz_set1_epi32(negative, 8);
      for (int k = 0; k < 7; ++k) {
        sum = _mm512_mask_add_epi32(sum, _mm512_cmpgt_epi32_mask(magnitude, threshold(t, k, low, high)), sum, one);
      }
      return sum;
    } else {
      const __m512i magnitude = _mm512_and_si512(raw, _mm512_set1_epi16(0x7FFF));
      const __m512i one = _mm512_set1_epi16(1);
      __mmask32 negative = _mm512_movepi16_mask(raw);
      if constexpr (kDropZeroSign) {
        negative &= _mm512_cmpgt_epi16_mask(magnitude, threshold(t, kSignThreshold, low, high));
      }
      __m512i sum = _mm512_maskz_set1_epi16(negative, 8);
      for (int k = 0; k < 7; ++k) {
        sum = _mm512_mask_add_epi16(sum, _mm512_cmpgt_epi16_mask(magnitude, threshold(t, k, low, high)), sum, one);
      }
      return sum;
    }
  }

  // Two blocks: sixteen bytes. A pair of codes becomes the byte even + 16 * odd.
  template <DType kDType, bool kDropZeroSign>
  static __m128i two_blocks(const uint8_t* x, const Thresholds& t, int b0, int b1) {
    __m512i words;
    if constexpr (kDType == DType::kFloat32) {
      const __m512i c0 = element_codes<kDType, kDropZeroSign>(load(x + 64 * b0), t, b0, b0);
      const __m512i c1 = element_codes<kDType, kDropZeroSign>(load(x + 64 * b1), t, b1, b1);
      words = _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(c0)), _mm512_cvtepi32_epi16(c1), 1);
    } else {
      const __m512i low = _mm512_castsi256_si512(load256(x + 32 * b0));
      words = element_codes<kDType, kDropZeroSign>(_mm512_inserti64x4(low, load256(x + 32 * b1), 1), t, b0, b1);
    }
    return _mm512_cvtepi32_epi8(_mm512_madd_epi16(words, _mm512_set1_epi32(16 << 16 | 1)));
  }

  template <DType kDType, bool kDropZeroSign>
  static void codes(const uint8_t* x, const Thresholds& t, int count, uint8_t* packed) {
    int b = 0;
    for (; b + 2 <= count; b += 2) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(packed + 8 * b), two_blocks<kDType, kDropZeroSign>(x, t, b, b + 1));
    }
    if (b < count) {
      _mm_storel_epi64(reinterpret_cast<__m128i*>(packed + 8 * b), two_blocks<kDType, kDropZeroSign>(x, t, b, b));
    }
  }
};

}  // namespace

const QuantizeKernels& quantize_kernels_avx512() {
  static constexpr QuantizeKernels kernels{Quantizer<Avx512>::amax, Quantizer<Avx512>::codes};
  return kernels;
}

}  // namespace nvfp4::cpu
