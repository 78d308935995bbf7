// What one instruction set brings to the gemm; gemm.cpp drives it. One file each: gemm_<isa>.cpp for W4A4,
// gemm_float_<isa>.cpp and gemm_bfloat16_<isa>.cpp for W4A16.
//
// Everything a kernel reads besides the weight tiles is laid out by the driver:
//   W4A4 activations: blocks of `width` tokens. For every group of 16 columns a block holds, one after the other,
//     int8  code[width][16]    twice the e2m1 value, columns in natural order (plus 12 for a kernel that wants uint8)
//     float scale[width]       s_a * 2^118
//     int32 offset[width]      -12 * the sum of the token's 16 codes: what weights stored as 2*w + 12 must take back,
//                              plus the kernel's offset_bias
//   W4A16 activations: blocks of `width` tokens. For every four columns a block holds float x[width][4], with the four
//     columns in the order 0, 2, 1, 3; or bfloat16 x[width][4] in the same order.
// All are padded with zeros to whole tiles.
//
// Block scales enter as bits << 20, which is s_b * 2^-120, exactly, subnormals included; with s_a * 2^118 and dot
// products of doubled values (4 = 2^2) the sum comes out right. Every product is exact: 12 + 4 + 4 significant bits.
#pragma once

#include <cstdint>

#include "dispatch/gemm_choice.h"
#include "isa.h"
#include "nvfp4/formats.h"
#include "nvfp4/layout.h"
#include "nvfp4/problem.h"

namespace nvfp4::cpu {

inline constexpr int kMaxTokens = 8;              // the widest token block of any instruction set
inline constexpr int kCodeOffset = 12;            // makes a doubled e2m1 value unsigned
inline constexpr int64_t kPanelGroupBytes = 384;  // of a decoded panel: 256 codes, 16 float scales, 16 int32 offsets
inline constexpr int64_t kFloatPanelGroup = 272;  // floats of a decoded W4A16 group: 256 values, 16 scales
inline constexpr int64_t kFloatPanelGroupBytes = kFloatPanelGroup * int64_t{sizeof(float)};
inline constexpr uint32_t kActivationScaleBits = (127u + 118u) << 23;  // 2^118

NVFP4_INLINE constexpr int64_t token_group_bytes(int width) { return static_cast<int64_t>(width) * 24; }

// What becomes of the sixteen sums of a token and a panel. Arrays hold sixteen values, or are null.
struct Epilogue {
  const float* second;     // to add to the sums first
  float alpha;             // 1 / (G_a * G_b)
  const float* row_alpha;  // in its place, where rows of the weights have their own global scales
  const float* bias;
  DType dtype;
};

struct GemmKernels {  // W4A4
  dispatch::GemmCosts costs;
  bool unsigned_in_panel;  // `panel` wants the activations' codes plus 12
  int32_t offset_bias;     // `stream` wants it added to the activations' offsets

  // sums[width][16] += the tiles' groups, in ascending order, straight from the tiles.
  void (*stream)(const uint8_t* tiles, int64_t tile_count, const uint8_t* block, int width, float* sums);

  // The same in two steps, for many tokens: tiles to a private layout, and that against one block after the other.
  void (*decode)(const uint8_t* tiles, int64_t tile_count, uint8_t* panel);
  void (*panel)(const uint8_t* panel, int64_t group_count, const uint8_t* block, int width, float* sums);

  // gemm_epilogue.h, compiled for this instruction set.
  void (*finish)(const float* sums, const Epilogue& epilogue, int rows, void* out);
};

// W4A16. Per output there are two chains; the result is the first + the second.
//
// Float blocks: the first chain is for columns with k % 4 in {0, 1}, the second for {2, 3}. In each group a chain adds
// its eight products x * w by fused multiply-add in ascending order, starting from the plain product; then chain =
// fma(s_b, group, chain). The bits are the same on every instruction set.
//
// bfloat16 blocks: the first chain is for even columns, the second for odd ones. A chain adds its products x * (w *
// s_b), whose second factor is exact in bfloat16, two at a time, the later column first, rounding to float32 after
// each. Numbers below 2^-126 count as zero, and as s_b comes first, products overflow from |x| = 2^128 / 2688 on. That
// is AVX-512's bfloat16 dot product; a CPU that has it takes this path for bfloat16 activations.
struct FloatGemmKernels {
  dispatch::GemmCosts costs;
  int64_t element_bytes;      // of a token block: 4 for float, 2 for bfloat16
  int64_t panel_group_bytes;  // of a decoded panel
  int64_t chunk_tiles;  // that are decoded at a time: with a block of tokens they stay in a 32 KiB first-level cache

  // sums[width][16] = all of the panel's tiles, straight from the tiles.
  void (*stream)(const uint8_t* tiles, int64_t tile_count, const void* block, int width, float* sums);

  // The same in two steps, for many tokens: tiles to a private layout, and that against one block after the other, onto
  // the chains [width][first, second][16].
  void (*decode)(const uint8_t* tiles, int64_t tile_count, void* panel);
  void (*panel)(const void* panel, int64_t group_count, const void* block, int width, float* chains);
};

const GemmKernels& gemm_kernels(InstructionSet isa);
const FloatGemmKernels& float_gemm_kernels(InstructionSet isa, DType activations);

extern const GemmKernels kGemmPortable;
extern const FloatGemmKernels kFloatGemmPortable;
#if defined(NVFP4_WITH_AVX2)
extern const GemmKernels kGemmAvx2;
extern const FloatGemmKernels kFloatGemmAvx2;
#endif
#if defined(NVFP4_WITH_AVX512)
extern const GemmKernels kGemmAvx512;
extern const FloatGemmKernels kFloatGemmAvx512;
#endif
#if defined(NVFP4_WITH_AVX512VNNI)
extern const GemmKernels kGemmAvx512Vnni;
#endif
#if defined(NVFP4_WITH_AVX512BF16)
extern const FloatGemmKernels kBFloat16GemmAvx512;
#endif
#if defined(NVFP4_WITH_NEON)
extern const GemmKernels kGemmNeon;
extern const FloatGemmKernels kFloatGemmNeon;
#endif

}  // namespace nvfp4::cpu
