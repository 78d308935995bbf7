// The vector quantiser, written once over a small set of per-instruction-set primitives.
//
// No element is divided. The e2m1 code of x is the number of thresholds below |x|, and because rounding is monotonic
//   code > i  <=>  RN(|x| / d) is past the boundary t_i between codes i and i + 1  <=>  |x| > T_i(d),
// where RN is IEEE float32 division, d = s / G the block's step, and T_i a value of x's own format that depends on the
// block alone. T_i is computed exactly, eight (or so) blocks at a time; then an element costs seven integer
// comparisons, or three where a table can be searched in registers (AVX-512, 16-bit formats).
//
// Let h_i be half a unit in the last place of t_i, so that t_i +- h_i are the midpoints at which RN turns. All t_i have
// even mantissas, hence a quotient at a midpoint rounds to t_i itself.
//   Ties at t_i go down (i even: .25, 1.25, 2.5, 5):  RN > t_i   <=>  |x| / d >  t_i + h_i  <=>  |x| >  v,  v = d (t_i
//   + h_i) Ties at t_i go up (i odd: .75, 1.75, 3.5):        RN >= t_i  <=>  |x| / d >= t_i - h_i  <=>  |x| >= v,  v =
//   d (t_i - h_i)
// T_i is the largest float32 <= v, or < v. With a = d h_i (a power of two times d, exact), p = fma(d, t_i, +-a) is v
// rounded once; fma(d, t_i, -p) is exact, since d t_i has 27 bits and p is within two units in its last place; and
// adding +-a gives v - p with the right sign. So T_i is p, or p's predecessor when p > v (or p >= v). Special cases:
//   t = .25: v = d/4 (1 + 2^-24) lies less than one unit above d/4, so T = d/4.
//   2.5, 5 and 3.5 are 1.25 and 1.75 scaled by powers of two, and so are their thresholds.
// Finally T_i is rounded down to x's format, which keeps the answer to "|x| > T_i" for every x of that format.
// All of this needs d in [2^-100, 2^120], where nothing underflows or overflows. Since 2^-9 <= s <= 448 that is a
// question of G. Rows with other global scales, and the neighbourhood of a NaN, take the scalar definition.
#pragma once

#include "quantize.h"
#include "quantize_scalar.h"

namespace nvfp4::cpu {
namespace {

template <int N>
struct Lanes {
  typedef float F __attribute__((vector_size(4 * N)));
  typedef uint32_t U __attribute__((vector_size(4 * N)));
  typedef int32_t I __attribute__((vector_size(4 * N)));
};

// at[i][b] is T_i of block b as float32 bits, or, for 16-bit formats, as the format's own bits in both halves.
// at[kSignThreshold] is what |x| has to exceed for its quotient not to vanish (only compressed-tensors needs it).
constexpr int kSignThreshold = 7;
constexpr int kStrip = 32;  // blocks between two switches of scale arithmetic and code arithmetic
struct Thresholds {
  alignas(64) uint32_t at[8][kStrip];
};

// V has: kLanes; F, U, I; fma(a, b, c), min, max (of numbers), all(mask);
//   store_bytes(to, u): the low bytes of u; repeat_high_half(u): the high 16 bits of every lane, twice;
//   amax_blocks<dtype>(x, count, amax): the largest magnitudes of 1 <= count <= kAmaxBlocks blocks;
//   codes<dtype, drop_zero_sign>(x, thresholds, count, packed): the codes of 1 <= count <= kStrip blocks.
template <class V>
struct Quantizer {
  static constexpr int N = V::kLanes;
  using F = typename V::F;
  using U = typename V::U;
  using I = typename V::I;

  static U bits_of(F x) { return reinterpret_cast<U>(x); }
  static F float_of(U x) { return reinterpret_cast<F>(x); }

  static F load(const float* from) {
    F x;
    memcpy(&x, from, sizeof(x));
    return x;
  }

  template <DType kDType>
  static float row_amax(const void* x, int64_t groups, float* amax) {
    const auto* bytes = static_cast<const uint8_t*>(x);
    const int64_t block_bytes = kGroupSize * dtype_bytes(kDType);
    for (int64_t g = 0; g < groups; g += V::kAmaxBlocks) {
      const int64_t left = groups - g;
      V::template amax_blocks<kDType>(bytes + g * block_bytes, left < V::kAmaxBlocks ? left : V::kAmaxBlocks, amax + g);
    }
    I largest = {};
    int64_t g = 0;
    for (; g + N <= groups; g += N) {
      const I bits = reinterpret_cast<I>(load(amax + g));
      largest = bits > largest ? bits : largest;
    }
    int32_t result = 0;
    for (int lane = 0; lane < N; ++lane) result = largest[lane] > result ? largest[lane] : result;
    for (; g < groups; ++g) {
      const auto bits = static_cast<int32_t>(float_bits(amax[g]));
      result = bits > result ? bits : result;
    }
    return bits_float(static_cast<uint32_t>(result));
  }

  // Magnitudes >= 0 rounded to dtype and back; infinities and NaN stay what they are.
  template <DType kDType>
  static F round_magnitude(F x) {
    const U bits = bits_of(x);
    if constexpr (kDType == DType::kBFloat16) return float_of((bits + 0x7FFFu + (bits >> 16 & 1u)) & 0xFFFF0000u);
    if constexpr (kDType == DType::kFloat16) {
      const F normal = float_of((bits + 0xFFFu + (bits >> 13 & 1u)) & 0xFFFFE000u);
      return x < 0x1p-14f ? (x + 0.5f) - 0.5f : normal;
    }
    return x;
  }

  // Block scales: their codes, and as the result their values. This is float_to_e4m3 for numbers; NaN is dealt with
  // above.
  template <DType kDType>
  static F block_scales(F amax, float global_scale, Scheme scheme, U& codes) {
    F sixth = amax / kE2M1Max;
    if (scheme == Scheme::kCompressedTensors) sixth = round_magnitude<kDType>(sixth);
    F y = V::min(sixth * global_scale, F{} + kE4M3Max);
    y = y <= 0x1p-10f ? (F{} + kZeroBlockScale) : y;  // what rounds to zero: half the smallest scale, a tie, and less
    // 2^20 times the power of two of y, or of the smallest normal scale: adding it leaves the step of e4m3 in the
    // mantissa.
    const U magic = (bits_of(V::max(y, F{} + 0x1p-6f)) & kInfinityBits) + (20u << 23);
    const F sum = y + float_of(magic);
    codes = bits_of(sum) - magic + (magic >> 20) - ((20u + 120u + 1u) << 3);
    return sum - float_of(magic);
  }

  // A threshold (float32 bits) rounded down to x's format and repeated to fill 32 bits.
  template <DType kDType>
  static U to_format(U bits) {
    if constexpr (kDType == DType::kBFloat16) return V::repeat_high_half(bits);
    if constexpr (kDType == DType::kFloat16) {
      const F x = float_of(bits);
      const I is_small = x < 0x1p-14f;
      const U subnormal = reinterpret_cast<U>(__builtin_convertvector((is_small ? x : F{}) * 0x1p24f, I));
      const U normal = (bits >> 13) - (112u << 10);
      const U largest = U{} + 0x7BFFu;
      const U code = is_small ? subnormal : normal > largest ? largest : normal;
      return code | code << 16;
    }
    return bits;
  }

  static void store(uint32_t* to, U x) { memcpy(to, &x, sizeof(x)); }

  template <DType kDType, bool kDropZeroSign>
  static void thresholds(F d, int lane, Thresholds& t) {
    const F a24 = d * 0x1p-24f, a25 = d * 0x1p-25f;
    const F p1 = V::fma(d, F{} + 0.75f, -a25);
    const F p2 = V::fma(d, F{} + 1.25f, a24);
    const F p3 = V::fma(d, F{} + 1.75f, -a24);
    // A true comparison is -1 in every lane: adding it steps to the predecessor.
    const U t1 = bits_of(p1) + reinterpret_cast<U>(V::fma(d, F{} + 0.75f, -p1) - a25 <= 0.0f);
    const U t2 = bits_of(p2) + reinterpret_cast<U>(V::fma(d, F{} + 1.25f, -p2) + a24 < 0.0f);
    const U t3 = bits_of(p3) + reinterpret_cast<U>(V::fma(d, F{} + 1.75f, -p3) - a24 <= 0.0f);
    const U t0 = bits_of(d * 0.25f);
    if constexpr (kDType == DType::kBFloat16) {
      // Cut to bf16 first: scaling by two and four is then one addition to both halves.
      const U c2 = to_format<kDType>(t2), c3 = to_format<kDType>(t3);
      const U all[] = {to_format<kDType>(t0), to_format<kDType>(t1), c2, c3, c2 + 0x00800080u,
                       c3 + 0x00800080u,      c2 + 0x01000100u};
      for (int i = 0; i < 7; ++i) store(t.at[i] + lane, all[i]);
    } else {
      const U all[] = {t0, t1, t2, t3, t2 + (1u << 23), t3 + (1u << 23), t2 + (2u << 23)};
      for (int i = 0; i < 7; ++i) store(t.at[i] + lane, to_format<kDType>(all[i]));
    }
    if constexpr (kDropZeroSign) {
      // RN(|x| / d) > 0  <=>  |x| > d 2^-150 = (d / 2) 2^-149; rounded down, d / 2 are the bits of that subnormal.
      store(t.at[kSignThreshold] + lane, to_format<kDType>(reinterpret_cast<U>(__builtin_convertvector(d * 0.5f, I))));
    }
  }

  // Scales and thresholds of `count` blocks from block g. False: one of them holds a NaN, and neither is usable.
  template <DType kDType, bool kDropZeroSign>
  static bool strip_scales(const QuantizeRow& row, int64_t g, int count, Thresholds& t) {
    // Two loops, so that several turns of the first, a chain of two divisions, overlap.
    alignas(64) float d[kStrip];
    alignas(64) uint8_t scales[kStrip];
    I is_number = ~I{};
    for (int lane = 0; lane < count; lane += N) {
      const F amax = load(row.amax + g + lane);
      U codes;
      const F step = block_scales<kDType>(amax, row.global_scale, row.scheme, codes) / row.global_scale;
      memcpy(d + lane, &step, sizeof(step));
      V::store_bytes(scales + lane, codes);
      is_number &= amax == amax;
    }
    if (!V::all(is_number)) return false;
    memcpy(row.scale + g, scales, count);
    for (int lane = 0; lane < count; lane += N) thresholds<kDType, kDropZeroSign>(load(d + lane), lane, t);
    return true;
  }

  template <DType kDType>
  __attribute__((noinline, cold)) static void scalar_codes(const QuantizeRow& row, int64_t g, int64_t count) {
    for (int64_t b = g; b < g + count; ++b) {
      row.scale[b] = block_scale(row.amax[b], row.global_scale, row.scheme, kDType);
      block_codes(row.x, kDType, b, row.scale[b], row.global_scale, row.scheme, row.packed + b * (kGroupSize / 2));
    }
  }

  template <DType kDType, bool kDropZeroSign>
  static void row_codes(const QuantizeRow& row) {
    // kDropZeroSign: d <= 2^23, so that the sign's threshold is a subnormal.
    const float smallest = kDropZeroSign ? 0x1p-14f : 0x1p-111f;
    if (row.global_scale < smallest || row.global_scale > 0x1p91f) return scalar_codes<kDType>(row, 0, row.groups);
    const auto* x = static_cast<const uint8_t*>(row.x);
    const int64_t block_bytes = kGroupSize * dtype_bytes(kDType);
    const auto* next = static_cast<const uint8_t*>(row.next);
    Thresholds t;
    for (int64_t g = 0; g < row.groups; g += kStrip) {
      const int count = static_cast<int>(row.groups - g < kStrip ? row.groups - g : kStrip);
      if (next) {  // reading is what the next row's first step would wait for, while this one is busy counting
        for (int64_t at = 0; at < count * block_bytes; at += 64) __builtin_prefetch(next + g * block_bytes + at);
      }
      if (strip_scales<kDType, kDropZeroSign>(row, g, count, t)) {
        V::template codes<kDType, kDropZeroSign>(x + g * block_bytes, t, count, row.packed + g * (kGroupSize / 2));
      } else {
        scalar_codes<kDType>(row, g, count);
      }
    }
  }

  static float amax(const void* x, DType dtype, int64_t groups, float* amax) {
    if (dtype == DType::kBFloat16) return row_amax<DType::kBFloat16>(x, groups, amax);
    if (dtype == DType::kFloat16) return row_amax<DType::kFloat16>(x, groups, amax);
    return row_amax<DType::kFloat32>(x, groups, amax);
  }

  template <DType kDType>
  static void codes_of(const QuantizeRow& row) {
    row.scheme == Scheme::kCompressedTensors ? row_codes<kDType, true>(row) : row_codes<kDType, false>(row);
  }

  static void codes(DType dtype, const QuantizeRow& row) {
    if (dtype == DType::kBFloat16) return codes_of<DType::kBFloat16>(row);
    if (dtype == DType::kFloat16) return codes_of<DType::kFloat16>(row);
    codes_of<DType::kFloat32>(row);
  }
};

}  // namespace
}  // namespace nvfp4::cpu
