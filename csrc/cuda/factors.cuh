// The factors by which sums of a matrix product are scaled, written by the kernel before it.
#pragma once

#include <cstdint>

#include "cuda/divide.cuh"
#include "nvfp4/problem.h"

namespace nvfp4::cuda {

__device__ __forceinline__ bool wants_factors(const GemmPreparation& p) {
  return p.alpha[0] != nullptr || p.alpha[1] != nullptr || p.next_alpha != nullptr;
}

// 1 / (global scale * the weight's), rounded once, of a token, or of all with `row` 0; and of the product behind that.
__device__ __forceinline__ void store_factors(const GemmPreparation& p, int64_t row, float global_scale) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (p.alpha[i] == nullptr) continue;
    p.alpha[i][row] = reciprocal_to_float(static_cast<double>(global_scale) * *p.weight_global_scale[i]);
  }
  if (row == 0 && p.next_alpha != nullptr) {
    *p.next_alpha = reciprocal_to_float(static_cast<double>(*p.next_global_scale[0]) * *p.next_global_scale[1]);
  }
}

}  // namespace nvfp4::cuda
