#include "cuda/sm120/instance.cuh"

namespace nvfp4::cuda::sm120 {

Instance streaming32() { return instance_of<Streaming32>(); }

}  // namespace nvfp4::cuda::sm120
