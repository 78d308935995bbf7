// What the kernels know about the tokens: maps for the copy engine.
#pragma once

#include <cuda.h>

namespace nvfp4::cuda::sm120 {

// Of the codes [m, k / 2] and of the scales' words [m / 32, k / 64 * 32].
struct TokenMaps {
  CUtensorMap codes, scales;
};

}  // namespace nvfp4::cuda::sm120
