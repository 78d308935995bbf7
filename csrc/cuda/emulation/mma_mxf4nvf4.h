// A software model of mma.sync.aligned.m16n8k64 kind::mxf4nvf4.block_scale.scale_vec::4X with e2m1 values and ue4m3
// scales: registers in and out as PTX lays them out (PTX ISA, "Matrix Fragments for mma.m16n8k64" and "Block Scaling
// for mma.sync"), the arithmetic as published by microsoft/MMA-Sim (arXiv 2511.10909), whose authors found it bit-equal
// to the hardware. Here it is the *published* model: no report from a card of our own confirms it.
//
// Per output there are five terms, C and four blocks of sixteen products. A block's products are summed exactly. All
// terms are aligned to the largest of their exponents, cut to 35 fractional bits, summed exactly and cut to float32.
#pragma once

#include <cstdint>

#include "nvfp4/formats.h"

namespace nvfp4::emulation {

inline constexpr int kWarp = 32;
inline constexpr int kAlignedBits = 35;
inline constexpr int kZeroExponent = -126;  // of a zero and of float32's subnormals
inline constexpr uint32_t kNanResult = 0x7FFFFFFFu;

// A number as significand * 2^(exponent - point), `point` being fixed for its kind.
struct Term {
  int64_t significand;
  int exponent;
};

// ue4m3: three bits behind the point; the sign bit is ignored.
NVFP4_INLINE Term scale_term(uint32_t byte) {
  const uint32_t mantissa = byte & 7u, exponent = byte >> 3 & 15u;
  if (mantissa == 0 && exponent == 0) return {0, kZeroExponent};
  return exponent == 0 ? Term{mantissa, -6} : Term{mantissa | 8u, static_cast<int>(exponent) - 7};
}

// float32: 23 bits behind the point.
NVFP4_INLINE Term float_term(float x) {
  const uint32_t bits = float_bits(x), mantissa = bits & 0x7FFFFFu, exponent = bits >> 23 & 0xFFu;
  const int64_t magnitude = exponent == 0 ? mantissa : mantissa | 0x800000u;
  return {bits >> 31 ? -magnitude : magnitude, exponent == 0 ? kZeroExponent : static_cast<int>(exponent) - 127};
}

NVFP4_INLINE bool has_nan_scale(uint32_t word) {
  for (int i = 0; i < 4; ++i) {
    if ((word >> 8 * i & 0x7Fu) == kE4M3Nan) return true;
  }
  return false;
}

// value * 2^shift, cut towards zero.
NVFP4_INLINE int64_t shifted(int64_t value, int shift) {
  if (shift >= 0) return value * (int64_t{1} << shift);
  if (shift <= -63) return 0;
  return value < 0 ? -(-value >> -shift) : value >> -shift;
}

// sum * 2^exponent as a float32, cut towards zero; infinity beyond its range.
NVFP4_INLINE float cut_to_float(int64_t sum, int exponent) {
  if (sum == 0) return 0.0f;
  const uint32_t sign = sum < 0 ? 0x80000000u : 0u;
  uint64_t magnitude = static_cast<uint64_t>(sum < 0 ? -sum : sum);
  int top = 63;
  while (!(magnitude >> top & 1u)) --top;
  int leading = top + exponent;  // the value lies in [2^leading, 2^(leading + 1))
  if (leading > 127) return bits_float(sign | 0x7F800000u);
  const int unit = (leading < kZeroExponent ? kZeroExponent : leading) - 23;
  const int64_t mantissa = shifted(static_cast<int64_t>(magnitude), exponent - unit);
  if (leading < kZeroExponent) return bits_float(sign | static_cast<uint32_t>(mantissa));
  return bits_float(sign | static_cast<uint32_t>(leading + 127) << 23 | (static_cast<uint32_t>(mantissa) & 0x7FFFFFu));
}

// Twice an e2m1 value. Not the table of formats.h: a table indexed at run time would live in a GPU's local memory.
NVFP4_INLINE int twice_e2m1(uint32_t code) {
  const int index = static_cast<int>(code & 7u);
  const int magnitude = index < 2 ? index : (2 | (index & 1)) << ((index >> 1) - 1);
  return code & 8u ? -magnitude : magnitude;
}

// c + one row of A times one column of B: eight words of codes each, word i holding k = 8 i .. 8 i + 7, and four
// scales.
NVFP4_INLINE float block_scaled_dot(const uint32_t (&a)[8], const uint32_t (&b)[8], uint32_t sfa, uint32_t sfb,
                                    float c) {
  if (has_nan_scale(sfa) || has_nan_scale(sfb) || c != c) return bits_float(kNanResult);
  if ((float_bits(c) & 0x7FFFFFFFu) == 0x7F800000u) return c;
  Term terms[5];
  terms[4] = float_term(c);
  int largest = terms[4].exponent;
  for (int block = 0; block < 4; ++block) {
    int dot = 0;  // in quarters
    for (int word = 2 * block; word < 2 * block + 2; ++word) {
      for (int i = 0; i < 32; i += 4) dot += twice_e2m1(a[word] >> i) * twice_e2m1(b[word] >> i);
    }
    const Term s_a = scale_term(sfa >> 8 * block), s_b = scale_term(sfb >> 8 * block);
    terms[block] = {dot * s_a.significand * s_b.significand, s_a.exponent + s_b.exponent};
    largest = terms[block].exponent > largest ? terms[block].exponent : largest;
  }
  int64_t sum = shifted(terms[4].significand, kAlignedBits - 23 + terms[4].exponent - largest);
  for (int block = 0; block < 4; ++block) {
    // Two bits behind the point from the quarters, three from each scale.
    sum += shifted(terms[block].significand, kAlignedBits - 8 + terms[block].exponent - largest);
  }
  return cut_to_float(sum, largest - kAlignedBits);
}

// Where the instruction finds a lane's operands: `lane_of_row(r)` and so on give the lane that holds them.
struct Selectors {
  uint32_t thread_id_a;  // 0 or 1
  uint32_t thread_id_b;  // 0 to 3
};

// Row 0 .. 7 of an m16 half (0: rows 0-7, 1: rows 8-15): the lane whose register holds its four scales.
NVFP4_INLINE int scale_lane_a(int group, int half, Selectors s) {
  return 4 * group + 2 * static_cast<int>(s.thread_id_a) + half;
}
NVFP4_INLINE int scale_lane_b(int column, Selectors s) { return 4 * column + static_cast<int>(s.thread_id_b); }

// The whole warp on the host. Registers a[lane][4], b[lane][2], c[lane][4], one word of scales a lane.
inline void mma_m16n8k64(const uint32_t (*a)[4], const uint32_t (*b)[2], const float (*c)[4], const uint32_t* sfa,
                         const uint32_t* sfb, Selectors s, float (*d)[4]) {
  for (int lane = 0; lane < kWarp; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const int group = lane / 4, half = i / 2, column = lane % 4 * 2 + i % 2;
      uint32_t row_words[8], column_words[8];
      for (int t = 0; t < 4; ++t) {
        row_words[t] = a[4 * group + t][half];
        row_words[4 + t] = a[4 * group + t][2 + half];
        column_words[t] = b[4 * column + t][0];
        column_words[4 + t] = b[4 * column + t][1];
      }
      d[lane][i] = block_scaled_dot(row_words, column_words, sfa[scale_lane_a(group, half, s)],
                                    sfb[scale_lane_b(column, s)], c[lane][i]);
    }
  }
}

}  // namespace nvfp4::emulation
