// The dequantise kernels as the driver in dequantize.cpp sees them.
#pragma once

#include <cstdint>

#include "isa.h"
#include "nvfp4/problem.h"
#include "quantize_scalar.h"

namespace nvfp4::cpu {

struct DequantizeRow {
  const uint8_t* packed;  // [8 * groups]
  const uint8_t* scale;   // [groups], plain order
  int64_t groups;
  float global_scale;
  void* out;  // 16 * groups elements
};

using DequantizeKernel = void (*)(DType dtype, const DequantizeRow& row);

void dequantize_row_portable(DType dtype, const DequantizeRow& row);
void dequantize_row_avx2(DType dtype, const DequantizeRow& row);
void dequantize_row_neon(DType dtype, const DequantizeRow& row);

DequantizeKernel dequantize_kernel(InstructionSet isa);

// What one step of a block's grid is worth: s / G in float32.
NVFP4_INLINE float block_step(uint8_t scale, float global_scale) { return e4m3_to_float(scale) / global_scale; }

// The definition of one element: the code's value, -0.0 included, times the step, rounded once more to dtype.
NVFP4_INLINE void store_element(uint8_t code, float step, DType dtype, void* out, int64_t index) {
  const float magnitude = 0.5f * static_cast<float>(kTwiceE2M1[code & 7]);
  float value = (code & 8 ? -magnitude : magnitude) * step;
  if (value != value) value = bits_float(0x7FC00000u);  // one NaN, since processors differ in the sign of 0 * infinity
  if (dtype == DType::kFloat32) {
    memcpy(static_cast<unsigned char*>(out) + 4 * index, &value, 4);
  } else {
    const uint16_t bits = dtype == DType::kBFloat16 ? float_to_bf16(value) : float_to_fp16(value);
    memcpy(static_cast<unsigned char*>(out) + 2 * index, &bits, 2);
  }
}

// One block, element by element.
NVFP4_INLINE void dequantize_block(DType dtype, const DequantizeRow& row, int64_t block) {
  const float step = block_step(row.scale[block], row.global_scale);
  for (int64_t i = 0; i < kGroupSize / 2; ++i) {
    const uint8_t byte = row.packed[block * (kGroupSize / 2) + i];
    store_element(byte & 15, step, dtype, row.out, block * kGroupSize + 2 * i);
    store_element(byte >> 4, step, dtype, row.out, block * kGroupSize + 2 * i + 1);
  }
}

}  // namespace nvfp4::cpu
