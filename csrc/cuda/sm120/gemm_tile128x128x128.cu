#include "cuda/sm120/instance.cuh"

namespace nvfp4::cuda::sm120 {

Instance tile128x128x128() { return instance_of<Tile128x128x128>(); }

}  // namespace nvfp4::cuda::sm120
