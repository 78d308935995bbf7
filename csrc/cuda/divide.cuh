// IEEE division without a call. The compiler's own has a subroutine for rare operands, and a kernel that calls anything
// may not move registers between its warps (setmaxnreg).
#pragma once

#include <cstdint>

#include "cuda/ptx/approximate.cuh"

namespace nvfp4::cuda {

// x / b rounded as IEEE does, from r = 1 / b rounded so: one Newton step whose residual is exact (Markstein). Wants b
// within [2^-100, 2^100]; right wherever the quotient is not so small that the residual underflows, and finite.
__device__ __forceinline__ float divide(float x, float b, float r) {
  const float quotient = x * r;
  return fmaf(fmaf(-quotient, b, x), r, quotient);
}

// 1 / b for a normal b, within a unit in the last place of float64.
__device__ __forceinline__ double reciprocal(double b) {
  double r = ptx::reciprocal_approximate(b);
  // Each step doubles some twenty right bits.
  r = fma(fma(-b, r, 1.0), r, r);
  r = fma(fma(-b, r, 1.0), r, r);
  return r;
}

// 1 / b to float64 and then to float32, as the number contract's alpha is rounded.
__device__ __forceinline__ float reciprocal_to_float(double b) {
  const double r = reciprocal(b);
  return static_cast<float>(fma(fma(-b, r, 1.0), r, r));
}

// 1 / b rounded as IEEE does, for b within [2^-100, 2^100]: float32's own Newton step, whose residual is exact.
__device__ __forceinline__ float reciprocal_in_range(float b) {
  const float r = ptx::reciprocal_approximate(b);
  return fmaf(fmaf(-b, r, 1.0f), r, r);
}

// x / b for any operands. Rounding the float64 quotient to float32 is rounding once: 53 bits are more than twice 24.
__device__ __forceinline__ float divide_any(float x, float b) {
  const uint32_t size_x = __float_as_uint(x) & 0x7FFFFFFFu, size_b = __float_as_uint(b) & 0x7FFFFFFFu;
  if (size_x >= 0x7F800000u || size_b >= 0x7F800000u || size_b == 0) {
    return x * ptx::reciprocal_approximate_of_any(b);  // of a number beside a NaN or an infinity only the sign matters
  }
  // The residual below is a zero of its own sign.
  if (size_x == 0) return __uint_as_float(__float_as_uint(x) ^ (__float_as_uint(b) & 0x80000000u));
  const double r = reciprocal(static_cast<double>(b)), quotient = static_cast<double>(x) * r;
  return static_cast<float>(fma(fma(-quotient, static_cast<double>(b), static_cast<double>(x)), r, quotient));
}

}  // namespace nvfp4::cuda
