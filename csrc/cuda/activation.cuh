// The gated activations of MLPs: h = act(gate) * up in float32.
#pragma once

#include "cuda/divide.cuh"
#include "nvfp4/problem.h"

namespace nvfp4::cuda {

// x times the logistic function of t, which does not cancel and underflows gradually for negative t.
__device__ __forceinline__ float times_logistic(float x, float t) {
  const float e = expf(-fabsf(t)), d = 1.0f + e;
  if (e == 0.0f) return t < 0.0f ? x * e : x;  // also keeps infinity out of the division's residual
  return divide(t < 0.0f ? x * e : x, d, reciprocal_in_range(d));
}

__device__ __forceinline__ float activate(float gate, float up, Activation activation) {
  float value = gate;
  switch (activation) {
    case Activation::kSilu:
      value = times_logistic(gate, gate);
      break;
    case Activation::kGeluTanh:
      // (1 + tanh(u)) / 2 is the logistic function of 2u.
      value = times_logistic(gate, 2.0f * (0.7978845608028654f * (gate + 0.044715f * gate * gate * gate)));
      break;
    case Activation::kGeluErf:
      // (1 + erf(z)) / 2 = erfc(-z) / 2, which does not cancel for negative x.
      value = 0.5f * gate * erfcf(-0.70710678118654752f * gate);
      break;
    case Activation::kNone:
      break;
  }
  return value * up;
}

}  // namespace nvfp4::cuda
