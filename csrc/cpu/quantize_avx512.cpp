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

  // Two 128-bit lanes of a and then two of b: lanes 0 and 2 (0x88), 1 and 3 (0xDD), 0 and 1 (0x44), 2 and 3 (0xEE).
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

  // The codes of one block of floats: how many thresholds lie below each magnitude.
  template <bool kDropZeroSign>
  static __m256i float_codes(const uint8_t* x, const Thresholds& t, int b) {
    const __m512i raw = load(x);
    const __m512i magnitude = _mm512_and_si512(raw, _mm512_set1_epi32(0x7FFFFFFF));
    const auto above = [&](int k) {
      return _mm512_cmpgt_epi32_mask(magnitude, _mm512_set1_epi32(static_cast<int>(t.at[k][b])));
    };
    __mmask16 negative = _mm512_movepi32_mask(raw);
    if constexpr (kDropZeroSign) negative &= above(kSignThreshold);
    __m512i sum = _mm512_maskz_set1_epi32(negative, 8);
    for (int k = 0; k < 7; ++k) sum = _mm512_mask_add_epi32(sum, above(k), sum, _mm512_set1_epi32(1));
    return _mm512_cvtepi32_epi16(sum);
  }

  // A block's thresholds of 16-bit elements side by side, the sign's last: a table for a permute of words.
  static constexpr int kTable = 8;
  static_assert(kSignThreshold == kTable - 1);

  // The tables of sixteen blocks from the one at `lane`; the thresholds come with a block a lane, twice in each.
  template <bool kDropZeroSign>
  static void make_tables(const Thresholds& t, int lane, uint16_t (*tables)[kTable]) {
    const auto at = [&](int k) { return _mm512_loadu_si512(t.at[k] + lane); };
    const auto join = [](__m512i even, __m512i odd) { return _mm512_mask_mov_epi16(even, 0xAAAAAAAAu, odd); };
    const __m512i p0 = join(at(0), at(1)), p1 = join(at(2), at(3)), p2 = join(at(4), at(5));
    const __m512i p3 = kDropZeroSign ? join(at(6), at(kSignThreshold)) : at(6);
    const __m512i a = _mm512_unpacklo_epi32(p0, p1), b = _mm512_unpackhi_epi32(p0, p1);
    const __m512i c = _mm512_unpacklo_epi32(p2, p3), d = _mm512_unpackhi_epi32(p2, p3);
    // Lane L of r[i] holds block 4 L + i: a transpose of lanes away from order.
    const __m512i r[4] = {_mm512_unpacklo_epi64(a, c), _mm512_unpackhi_epi64(a, c), _mm512_unpacklo_epi64(b, d),
                          _mm512_unpackhi_epi64(b, d)};
    const __m512i low01 = lanes<0x44>(r[0], r[1]), high01 = lanes<0xEE>(r[0], r[1]);
    const __m512i low23 = lanes<0x44>(r[2], r[3]), high23 = lanes<0xEE>(r[2], r[3]);
    _mm512_store_si512(tables[0], lanes<0x88>(low01, low23));
    _mm512_store_si512(tables[4], lanes<0xDD>(low01, low23));
    _mm512_store_si512(tables[8], lanes<0x88>(high01, high23));
    _mm512_store_si512(tables[12], lanes<0xDD>(high01, high23));
  }

  // The codes of two blocks of 16-bit elements by binary search: three comparisons, each with the threshold that the
  // ones before it chose. `tables` are the first block's and the second block's.
  template <bool kDropZeroSign>
  static __m512i search_codes(__m512i raw, const uint16_t* tables) {
    const __m512i table = _mm512_castsi256_si512(_mm256_load_si256(reinterpret_cast<const __m256i*>(tables)));
    const __m512i first = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(kTable), 1);
    const __m512i magnitude = _mm512_and_si512(raw, _mm512_set1_epi16(0x7FFF));
    const auto above = [&](__m512i index) {
      return _mm512_cmpgt_epi16_mask(magnitude, _mm512_permutexvar_epi16(index, table));
    };
    const auto add = [](__m512i x, __mmask32 where, short y) {
      return _mm512_mask_add_epi16(x, where, x, _mm512_set1_epi16(y));
    };
    const auto plus = [&](short y) { return _mm512_add_epi16(first, _mm512_set1_epi16(y)); };
    __mmask32 negative = _mm512_movepi16_mask(raw);
    if constexpr (kDropZeroSign) negative &= above(plus(kSignThreshold));
    const __m512i upper = add(plus(1), above(plus(3)), 4);  // first + 1 or first + 5
    const __m512i quarter = add(_mm512_sub_epi16(upper, _mm512_set1_epi16(1)), above(upper), 2);
    const __m512i code = _mm512_sub_epi16(add(quarter, above(quarter), 1), first);
    return add(code, negative, 8);
  }

  // Two blocks: sixteen bytes. A pair of codes becomes the byte even + 16 * odd.
  static __m128i joined(__m512i codes) {
    return _mm512_cvtepi32_epi8(_mm512_madd_epi16(codes, _mm512_set1_epi32(16 << 16 | 1)));
  }

  template <DType kDType, bool kDropZeroSign>
  static void codes(const uint8_t* x, const Thresholds& t, int count, uint8_t* packed) {
    alignas(64) uint16_t tables[kStrip + 1][kTable];  // one more: an odd last block is searched as a pair
    if constexpr (kDType != DType::kFloat32) {
      for (int lane = 0; lane < count; lane += kLanes) make_tables<kDropZeroSign>(t, lane, tables + lane);
    }
    const auto two_blocks = [&](int b0, int b1) {
      if constexpr (kDType == DType::kFloat32) {
        const __m256i c0 = float_codes<kDropZeroSign>(x + 64 * b0, t, b0);
        const __m256i c1 = float_codes<kDropZeroSign>(x + 64 * b1, t, b1);
        return joined(_mm512_inserti64x4(_mm512_castsi256_si512(c0), c1, 1));
      } else {
        const __m512i low = _mm512_castsi256_si512(load256(x + 32 * b0));
        const __m512i raw = _mm512_inserti64x4(low, load256(x + 32 * b1), 1);
        return joined(search_codes<kDropZeroSign>(raw, tables[b0]));
      }
    };
    int b = 0;
    for (; b + 2 <= count; b += 2) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(packed + 8 * b), two_blocks(b, b + 1));
    }
    if (b < count) _mm_storel_epi64(reinterpret_cast<__m128i*>(packed + 8 * b), two_blocks(b, b));
  }
};

}  // namespace

const QuantizeKernels& quantize_kernels_avx512() {
  static constexpr QuantizeKernels kernels{Quantizer<Avx512>::amax, Quantizer<Avx512>::codes};
  return kernels;
}

}  // namespace nvfp4::cpu
