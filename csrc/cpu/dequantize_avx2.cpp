// Dequantisation by table: a block's eight magnitudes are multiplied and rounded once, then looked up sixteen times.
#include <immintrin.h>

#include "dequantize.h"

namespace nvfp4::cpu {
namespace {

// The sixteen codes of a block as bytes, in the order of their columns.
__m128i unpack_codes(const uint8_t* packed) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(packed));
  const __m128i mask = _mm_set1_epi8(15);
  return _mm_unpacklo_epi8(_mm_and_si128(bytes, mask), _mm_and_si128(_mm_srli_epi16(bytes, 4), mask));
}

// Eight products as bf16 or fp16 in the low 16 bits of words; they are finite, or infinite by overflow, never NaN.
template <DType kDType>
__m128i round_products(__m256 products) {
  if constexpr (kDType == DType::kFloat16) {
    return _mm256_cvtps_ph(products, _MM_FROUND_TO_NEAREST_INT);
  } else {
    const __m256i bits = _mm256_castps_si256(products);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
    const __m256i words = _mm256_srli_epi32(sum, 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  }
}

template <DType kDType>
void store_block(__m256 products, __m128i codes, uint8_t* out) {
  if constexpr (kDType == DType::kFloat32) {
    for (int half = 0; half < 2; ++half) {
      const __m256i index = _mm256_cvtepu8_epi32(half ? _mm_srli_si128(codes, 8) : codes);
      const __m256i sign = _mm256_and_si256(_mm256_slli_epi32(index, 28), _mm256_set1_epi32(INT32_MIN));
      const __m256i value = _mm256_castps_si256(_mm256_permutevar8x32_ps(products, index));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 32 * half), _mm256_xor_si256(value, sign));
    }
  } else {
    // Two byte tables of sixteen codes; the negative half of the high bytes has its sign flipped.
    const __m128i words = round_products<kDType>(products);
    const __m128i even = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 0, 2, 4, 6, 8, 10, 12, 14);
    const __m128i odd = _mm_setr_epi8(1, 3, 5, 7, 9, 11, 13, 15, 1, 3, 5, 7, 9, 11, 13, 15);
    const __m128i flip = _mm_set_epi64x(static_cast<int64_t>(0x8080808080808080u), 0);
    const __m128i low = _mm_shuffle_epi8(_mm_shuffle_epi8(words, even), codes);
    const __m128i high = _mm_shuffle_epi8(_mm_xor_si128(_mm_shuffle_epi8(words, odd), flip), codes);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_unpacklo_epi8(low, high));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 16), _mm_unpackhi_epi8(low, high));
  }
}

template <DType kDType>
void dequantize_row(const DequantizeRow& row) {
  const __m256 magnitudes = _mm256_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f);
  const int64_t block_bytes = kGroupSize * dtype_bytes(kDType);
  auto* out = static_cast<uint8_t*>(row.out);
  for (int64_t g = 0; g < row.groups; ++g, out += block_bytes) {
    const float step = block_step(row.scale[g], row.global_scale);
    if ((float_bits(step) & kMagnitudeBits) >= kInfinityBits) {
      dequantize_block(kDType, row, g);
    } else {
      store_block<kDType>(_mm256_mul_ps(magnitudes, _mm256_set1_ps(step)), unpack_codes(row.packed + 8 * g), out);
    }
  }
}

}  // namespace

void dequantize_row_avx2(DType dtype, const DequantizeRow& row) {
  if (dtype == DType::kBFloat16) return dequantize_row<DType::kBFloat16>(row);
  if (dtype == DType::kFloat16) return dequantize_row<DType::kFloat16>(row);
  dequantize_row<DType::kFloat32>(row);
}

}  // namespace nvfp4::cpu
