// What every launch needs: errors as exceptions, and division by a number known on the host.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "nvfp4/cuda.h"
#include "nvfp4/errors.h"
#include "nvfp4/layout.h"

namespace nvfp4::cuda {

inline void check_cuda(cudaError_t status, const char* what) {
  check(status == cudaSuccess, what, ": ", cudaGetErrorName(status), ", ", cudaGetErrorString(status));
}

inline cudaStream_t native(Stream stream) { return static_cast<cudaStream_t>(stream); }

// n / divisor for n < 2^31 by one multiplication (Granlund and Montgomery).
struct Divider {
  uint32_t divisor = 1, multiplier = 0, shift = 0;

  Divider() = default;
  explicit Divider(uint32_t d) : divisor(d) {
    if (d == 1) return;
    while ((uint64_t{1} << shift) < d) ++shift;
    const uint64_t power = uint64_t{1} << (31 + shift);
    multiplier = static_cast<uint32_t>((power + d - 1) / d);
    --shift;
  }
  __device__ __forceinline__ uint32_t divide(uint32_t n) const {
    return divisor == 1 ? n : __umulhi(n, multiplier) >> shift;
  }
};

}  // namespace nvfp4::cuda
