// One instance of the matrix product: its launch. Every gemm_<name>.cu makes one, so that they compile side by side.
#pragma once

#include "cuda/sm120/gemm.cuh"
#include "cuda/sm120/instances.h"

namespace nvfp4::cuda::sm120 {

// `programmatic`: the kernel may begin before the one ahead of it in the stream is complete.
template <typename Tile>
void launch_instance(const TokenMaps& maps, const Arguments& arguments, int blocks, bool programmatic,
                     cudaStream_t stream) {
  const auto kernel = gemm<Tile>;
  // Once a device would do; it costs less than the launch. All shared memory, so that a second kernel's block fits.
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Tile::kSharedBytes),
             "gemm: shared memory");
  check_cuda(
      cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared),
      "gemm: shared memory");
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(Tile::kThreads);
  config.dynamicSmemBytes = Tile::kSharedBytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = programmatic ? 1 : 0;
  check_cuda(cudaLaunchKernelEx(&config, kernel, maps, arguments), "gemm");
}

template <typename Tile>
constexpr Instance instance_of() {
  return {Tile::kTokens, Tile::kUnits, Tile::kStages, Tile::kWarps, &launch_instance<Tile>};
}

}  // namespace nvfp4::cuda::sm120
