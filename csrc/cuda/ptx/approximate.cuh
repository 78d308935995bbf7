// The special function unit's approximations. Those of float32 are within 2 units in the last place, subnormals
// included unless said; those of float64 have some twenty right bits.
#pragma once

namespace nvfp4::ptx {

// Zero where it would be subnormal.
__device__ __forceinline__ float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Of a normal x whose reciprocal is normal; of infinity and NaN right too.
__device__ __forceinline__ float reciprocal_approximate(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Of any x: of 0, infinity and NaN exactly.
__device__ __forceinline__ float reciprocal_approximate_of_any(float x) {
  float y;
  asm("rcp.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Of a normal x.
__device__ __forceinline__ double reciprocal_approximate(double x) {
  double y;
  asm("rcp.approx.ftz.f64 %0, %1;" : "=d"(y) : "d"(x));
  return y;
}

__device__ __forceinline__ float inverse_root_approximate(float x) {
  float y;
  asm("rsqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Of a normal x.
__device__ __forceinline__ double inverse_root_approximate(double x) {
  double y;
  asm("rsqrt.approx.ftz.f64 %0, %1;" : "=d"(y) : "d"(x));
  return y;
}

}  // namespace nvfp4::ptx
