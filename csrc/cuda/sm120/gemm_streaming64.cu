#include "cuda/sm120/instance.cuh"

namespace nvfp4::cuda::sm120 {

Instance streaming64() { return instance_of<Streaming64>(); }

}  // namespace nvfp4::cuda::sm120
