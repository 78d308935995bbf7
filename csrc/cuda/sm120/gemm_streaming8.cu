#include "cuda/sm120/instance.cuh"

namespace nvfp4::cuda::sm120 {

Instance streaming8() { return instance_of<Streaming8>(); }

}  // namespace nvfp4::cuda::sm120
