// The end of every gemm: scale, bias, rounding. One source, included by every gemm_<isa>.cpp so that each compiler run
// makes vectors of its own width of it; everything has internal linkage for that reason. The bits are the same
// everywhere: plain multiplications, additions and integer operations, without contraction.
#pragma once

#include <cstdint>

#include "gemm_kernels.h"
#include "nvfp4/formats.h"
#include "nvfp4/layout.h"
#include "nvfp4/problem.h"

namespace nvfp4::cpu {
namespace {

inline float canonical(float x) { return x != x ? bits_float(0x7FC00000u) : x; }

// The rounding helpers are free of branches so that the compiler can keep a whole row of sums in vectors.
inline uint16_t to_bfloat16(float x) {
  const uint32_t bits = float_bits(x);
  const uint32_t rounded = (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
  return static_cast<uint16_t>(x != x ? 0x7FC0u : rounded);
}

inline uint16_t to_float16(float x) {
  const uint32_t bits = float_bits(x);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  // Normal results: round the mantissa to ten bits; a carry runs into the exponent, up to infinity, as it should.
  const uint32_t rounded = (magnitude + 0xFFFu + (magnitude >> 13 & 1u)) >> 13;
  const uint32_t normal = rounded - (112u << 10) < 0x7C00u ? rounded - (112u << 10) : 0x7C00u;
  // Subnormal results lie on the grid 2^-24, which is the spacing of float32 at 0.5.
  const uint32_t subnormal = float_bits(bits_float(magnitude) + 0.5f) - float_bits(0.5f);
  const uint32_t value = magnitude >= (113u << 23) ? normal : subnormal;
  return static_cast<uint16_t>(x != x ? 0x7E00u : sign | value);
}

// Writes the first `rows` of sixteen values: mostly all of them, and then the copy has a constant size.
template <typename T>
inline void store_rows(const T (&values)[kTileRows], int rows, void* out) {
  if (rows == kTileRows) {
    memcpy(out, values, sizeof(values));
  } else {
    memcpy(out, values, sizeof(T) * static_cast<size_t>(rows));
  }
}

// out[r] = round_out(round32(round32((sums[r] + second[r]) * alpha) + bias[r])) for r < rows <= 16, every NaN the
// canonical quiet one.
inline void finish(const float* sums, const Epilogue& epilogue, int rows, void* out) {
  const float* second = epilogue.second;
  const float* alphas = epilogue.row_alpha;
  const float* bias = epilogue.bias;
  const DType dtype = epilogue.dtype;
  float y[kTileRows];
  for (int r = 0; r < kTileRows; ++r) y[r] = sums[r];
  if (second != nullptr) {
    for (int r = 0; r < kTileRows; ++r) y[r] += second[r];
  }
  for (int r = 0; r < kTileRows; ++r) y[r] *= alphas != nullptr ? alphas[r] : epilogue.alpha;
  if (bias != nullptr) {
    for (int r = 0; r < kTileRows; ++r) y[r] += bias[r];
  }
  if (dtype == DType::kFloat32) {
    for (int r = 0; r < kTileRows; ++r) y[r] = canonical(y[r]);
    return store_rows(y, rows, out);
  }
  uint16_t narrow[kTileRows];
  if (dtype == DType::kBFloat16) {
    for (int r = 0; r < kTileRows; ++r) narrow[r] = to_bfloat16(y[r]);
  } else {
    for (int r = 0; r < kTileRows; ++r) narrow[r] = to_float16(y[r]);
  }
  store_rows(narrow, rows, out);
}

}  // namespace
}  // namespace nvfp4::cpu
