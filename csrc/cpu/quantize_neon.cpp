// Quantisation with 128-bit vectors: four blocks' scales at a time, eight 16-bit elements or four floats.
#include <arm_neon.h>

#include "quantize_kernel.h"

namespace nvfp4::cpu {
namespace {

struct Neon {
  static constexpr int kLanes = 4;
  static constexpr int64_t kAmaxBlocks = 8;
  using F = Lanes<kLanes>::F;
  using U = Lanes<kLanes>::U;
  using I = Lanes<kLanes>::I;

  static F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
  static F min(F a, F b) { return vminq_f32(a, b); }
  static F max(F a, F b) { return vmaxq_f32(a, b); }
  static bool all(I mask) { return vminvq_u32(vreinterpretq_u32_s32(mask)) == 0xFFFFFFFFu; }

  static void store_bytes(uint8_t* to, U x) {
    const uint16x4_t words = vmovn_u32(x);
    const uint8x8_t bytes = vmovn_u16(vcombine_u16(words, words));
    vst1_lane_u32(reinterpret_cast<uint32_t*>(to), vreinterpret_u32_u8(bytes), 0);
  }

  static U repeat_high_half(U x) {
    const uint16x8_t words = vreinterpretq_u16_u32(x);
    return vreinterpretq_u32_u16(vtrn2q_u16(words, words));
  }

  static uint16x8_t load16(const uint8_t* from) { return vreinterpretq_u16_u8(vld1q_u8(from)); }
  static uint32x4_t load32(const uint8_t* from) { return vreinterpretq_u32_u8(vld1q_u8(from)); }

  // Pairwise maxima keep the blocks in order. Missing blocks repeat the last one.
  template <DType kDType>
  static void amax_blocks(const uint8_t* x, int64_t count, float* amax) {
    alignas(16) float result[kAmaxBlocks];
    auto index = [&](int64_t b) { return b < count ? b : count - 1; };
    if constexpr (kDType == DType::kFloat32) {
      const uint32x4_t magnitude = vdupq_n_u32(kMagnitudeBits);
      auto part = [&](const uint8_t* from) { return vandq_u32(load32(from), magnitude); };
      auto block = [&](int64_t b) {
        const uint8_t* from = x + 64 * index(b);
        return vmaxq_u32(vmaxq_u32(part(from), part(from + 16)), vmaxq_u32(part(from + 32), part(from + 48)));
      };
      for (int b = 0; b < kAmaxBlocks; b += 4) {
        const uint32x4_t low = vpmaxq_u32(block(b), block(b + 1)), high = vpmaxq_u32(block(b + 2), block(b + 3));
        vst1q_f32(result + b, vreinterpretq_f32_u32(vpmaxq_u32(low, high)));
      }
    } else {
      const uint16x8_t magnitude = vdupq_n_u16(0x7FFF);
      auto block = [&](int64_t b) {
        const uint8_t* from = x + 32 * index(b);
        return vmaxq_u16(vandq_u16(load16(from), magnitude), vandq_u16(load16(from + 16), magnitude));
      };
      auto four = [&](int64_t b) {
        return vpmaxq_u16(vpmaxq_u16(block(b), block(b + 1)), vpmaxq_u16(block(b + 2), block(b + 3)));
      };
      const uint16x8_t words = vpmaxq_u16(four(0), four(4));
      if constexpr (kDType == DType::kBFloat16) {
        vst1q_f32(result, vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(words), 16)));
        vst1q_f32(result + 4, vreinterpretq_f32_u32(vshll_n_u16(vget_high_u16(words), 16)));
      } else {
        vst1q_f32(result, vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(words))));
        vst1q_f32(result + 4, vcvt_f32_f16(vreinterpret_f16_u16(vget_high_u16(words))));
      }
    }
    memcpy(amax, result, count * sizeof(float));
  }

  // A threshold of one block in every lane.
  static uint32x4_t threshold(const Thresholds& t, int i, int block) { return vld1q_dup_u32(&t.at[i][block]); }

  // The codes of eight elements of a block in 16-bit lanes. Subtracting a true comparison (-1) counts it.
  template <DType kDType, bool kDropZeroSign>
  static uint16x8_t eight_codes(const uint8_t* x, const Thresholds& t, int block) {
    if constexpr (kDType == DType::kFloat32) {
      auto four = [&](const uint8_t* from) {
        const uint32x4_t raw = load32(from);
        const uint32x4_t magnitude = vandq_u32(raw, vdupq_n_u32(kMagnitudeBits));
        uint32x4_t sum = vshlq_n_u32(vshrq_n_u32(raw, 31), 3);
        if constexpr (kDropZeroSign) sum = vandq_u32(sum, vcgtq_u32(magnitude, threshold(t, kSignThreshold, block)));
        for (int i = 0; i < 7; ++i) sum = vsubq_u32(sum, vcgtq_u32(magnitude, threshold(t, i, block)));
        return vmovn_u32(sum);
      };
      return vcombine_u16(four(x), four(x + 16));
    } else {
      auto limit = [&](int i) { return vreinterpretq_u16_u32(threshold(t, i, block)); };
      const uint16x8_t raw = load16(x);
      const uint16x8_t magnitude = vandq_u16(raw, vdupq_n_u16(0x7FFF));
      uint16x8_t sum = vshlq_n_u16(vshrq_n_u16(raw, 15), 3);
      if constexpr (kDropZeroSign) sum = vandq_u16(sum, vcgtq_u16(magnitude, limit(kSignThreshold)));
      for (int i = 0; i < 7; ++i) sum = vsubq_u16(sum, vcgtq_u16(magnitude, limit(i)));
      return sum;
    }
  }

  template <DType kDType, bool kDropZeroSign>
  static void codes(const uint8_t* x, const Thresholds& t, int count, uint8_t* packed) {
    const int64_t block_bytes = kGroupSize * dtype_bytes(kDType);
    for (int b = 0; b < count; ++b, x += block_bytes) {
      const uint16x8_t low = eight_codes<kDType, kDropZeroSign>(x, t, b);
      const uint16x8_t high = eight_codes<kDType, kDropZeroSign>(x + block_bytes / 2, t, b);
      const uint16x8_t even = vuzp1q_u16(low, high), odd = vuzp2q_u16(low, high);
      vst1_u8(packed + 8 * b, vmovn_u16(vsliq_n_u16(even, odd, 4)));
    }
  }
};

}  // namespace

const QuantizeKernels& quantize_kernels_neon() {
  static constexpr QuantizeKernels kernels{Quantizer<Neon>::amax, Quantizer<Neon>::codes};
  return kernels;
}

}  // namespace nvfp4::cpu
