// The instances of the matrix product that this library holds.
#pragma once

#include <cuda_runtime.h>

#include <vector>

#include "cuda/sm120/arguments.cuh"
#include "cuda/sm120/maps.h"

namespace nvfp4::cuda::sm120 {

struct Instance {
  int tokens, units, stages, warps;  // as dispatch::Sm120Shape has them
  void (*launch)(const TokenMaps&, const Arguments&, int blocks, bool programmatic, cudaStream_t);
};

Instance streaming8();
Instance streaming16();
Instance streaming32();
Instance streaming64();
Instance tile128x128x128();
Instance tile128x128x256();
Instance tile256x128x128();

}  // namespace nvfp4::cuda::sm120
