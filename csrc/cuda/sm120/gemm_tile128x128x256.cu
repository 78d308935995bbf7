#include "cuda/sm120/instance.cuh"

namespace nvfp4::cuda::sm120 {

Instance tile128x128x256() { return instance_of<Tile128x128x256>(); }

}  // namespace nvfp4::cuda::sm120
