#include "cuda/sm120/instance.cuh"

namespace nvfp4::cuda::sm120 {

Instance streaming16() { return instance_of<Streaming16>(); }

}  // namespace nvfp4::cuda::sm120
