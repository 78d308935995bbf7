// The quantise kernels as the driver in quantize.cpp sees them: two steps over one row, one table an instruction set.
#pragma once

#include <cstdint>

#include "isa.h"
#include "nvfp4/problem.h"

namespace nvfp4::cpu {

// The kernels work on whole vectors of blocks, so a row's block maxima are readable this many past the last one.
inline constexpr int64_t kAmaxPadding = 16;

// One row with its global scale known.
struct QuantizeRow {
  const void* x;       // 16 * groups elements
  const void* next;    // the row that follows, to be fetched meanwhile; or null
  int64_t groups;      // blocks in the row
  const float* amax;   // [groups + kAmaxPadding], as the first step wrote it
  float global_scale;  // finite and > 0
  Scheme scheme;
  uint8_t* packed;  // [8 * groups]
  uint8_t* scale;   // [groups], plain order
};

struct QuantizeKernels {
  // Writes the largest magnitude of every block to amax[0 .. groups) and returns the largest of them. Magnitudes are
  // ordered as their bits are: NaN above infinity above every number.
  float (*amax)(const void* x, DType dtype, int64_t groups, float* amax);
  // Writes a row's scales and codes.
  void (*codes)(DType dtype, const QuantizeRow& row);
};

const QuantizeKernels& quantize_kernels_portable();
const QuantizeKernels& quantize_kernels_avx2();
const QuantizeKernels& quantize_kernels_avx512();
const QuantizeKernels& quantize_kernels_neon();

const QuantizeKernels& quantize_kernels(InstructionSet isa);

// Throws nvfp4::Error unless every field of the problem makes sense; reads given global scales, but neither x nor
// outputs.
void check_quantize(const QuantizeProblem& problem);

}  // namespace nvfp4::cpu
