// What a matrix product's kernel is told beside its tensor maps.
#pragma once

#include <cstdint>

#include "cuda/sm120/schedule.cuh"
#include "nvfp4/problem.h"

namespace nvfp4::cuda::sm120 {

struct Arguments {
  Schedule schedule;
  int m, n;
  const uint8_t* weights;  // n128k128

  // y = alpha * sum + bias. One alpha, or one a token; gated weights have one for gate and one for up rows.
  const float* alpha;
  const float* up_alpha;
  bool alpha_per_token;
  const void* bias;  // [n], or null
  DType bias_dtype;
  Activation activation;  // kNone, or a 16-bit output
  void* out;              // [m, n], or [m, n / 2] behind an activation
  DType out_dtype;
  const void* residual;  // as `out`, or null: added after rounding
  // Instead of `out`: its codes and scales by a given global scale.
  uint8_t* out_packed;
  int64_t out_pitch;   // bytes from row to row
  uint8_t* out_scale;  // 32x4
  const float* out_global_scale;

  float* partials;     // by slot: the accumulators of one tile
  uint32_t* arrivals;  // zeros: one for every warp of every tile
};

}  // namespace nvfp4::cuda::sm120
