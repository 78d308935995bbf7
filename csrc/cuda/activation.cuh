// The gated activations of MLPs: act(gate) * up, in float32 for 16-bit values and in float64 for float32. Each is exact
// enough that rounding it gives the rounded exact number or one next to it.
#pragma once

#include <cstdint>

#include "cuda/divide.cuh"
#include "cuda/ptx/approximate.cuh"
#include "nvfp4/problem.h"

namespace nvfp4::cuda {

// The product is (gate f s) (up f): for a negative gate f² is what act(gate) decays by, shared between both factors so
// that neither underflows before their product does; else f is 1.
__device__ __forceinline__ float activate(float gate, float up, Activation activation) {
  constexpr float kQuarterLog2E = 0.36067376f;
  float root, rest;  // the square root of the f of a negative gate, which is normal wherever f is not zero; and s
  if (activation == Activation::kGeluErf) {
    // erfc(z) = t 2^(4 (p(t) - z² log2(e) / 4)) with t = 1 / (1 + z / 2), at z = |gate| / sqrt(2). The form is that of
    // Numerical Recipes' erfcc; p is fitted to 2.4e-6 of erfc by Lawson's algorithm.
    const float t = ptx::reciprocal_approximate(fmaf(0.35355339f, fabsf(gate), 1.0f));
    constexpr float kCoefficients[] = {0.232608642f, -0.303769861f, 0.0824824115f, 0.00374745933f,
                                       0.138182679f, 0.360550603f,  -0.456436169f};
    float p = -0.057364918f;
#pragma unroll
    for (float c : kCoefficients) p = fmaf(p, t, c);
    root = ptx::exp2_approximate(fmaf(-0.5f * kQuarterLog2E * gate, gate, p));
    const float half = 0.5f * t, half_decay = root * root;
    rest = gate < 0.0f ? half : fmaf(-half * half_decay, half_decay, 1.0f);
  } else {
    // x times the logistic function of t, which is x for SiLU; (1 + tanh(u)) / 2 is that of 2u.
    constexpr float kLinear = 1.5957691f, kCubic = 1.5957691f * 0.044715f;
    const float t = activation == Activation::kSilu ? gate : gate * fmaf(kCubic * gate, gate, kLinear);
    root = ptx::exp2_approximate(-kQuarterLog2E * fabsf(t));
    const float half_decay = root * root;
    rest = ptx::reciprocal_approximate(fmaf(half_decay, half_decay, 1.0f));
  }
  const float f = gate < 0.0f ? root * root : 1.0f;
  return gate * f * rest * (up * f);
}

// e^t for t <= 0 to some 40 bits.
__device__ __forceinline__ double exp_of_negative(double t) {
  // Adding 1.5 * 2^52 leaves the nearest integer in the low word.
  const double shifted = fma(t, 1.4426950408889634, 0x1.8p52);
  const double r = fma(shifted - 0x1.8p52, -0.69314718055994531, t);
  // Taylor's series: |r| <= 0.35.
  constexpr double kInverseFactorials[] = {1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120,
                                           1.0 / 24,     1.0 / 6,     1.0 / 2,    1.0,       1.0};
  double sum = 1.0 / 3628800;
#pragma unroll
  for (double c : kInverseFactorials) sum = fma(sum, r, c);
  return t < -700.0 ? 0.0 : sum * __hiloint2double((__double2loint(shifted) + 1023) << 20, 0);
}

__device__ __forceinline__ double activate(double gate, double up, Activation activation) {
  double value;
  if (activation == Activation::kGeluErf) {
    value = 0.5 * gate * erfc(-0.70710678118654752 * gate);
  } else {
    constexpr double kLinear = 1.5957691216057308, kCubic = kLinear * 0.044715;
    const double t = activation == Activation::kSilu ? gate : gate * fma(kCubic * gate, gate, kLinear);
    const double e = exp_of_negative(-fabs(t));
    value = (gate < 0.0 ? gate * e : gate) * reciprocal(1.0 + e);
  }
  return value * up;
}

}  // namespace nvfp4::cuda
