#include "cuda/sm120/instance.cuh"

namespace nvfp4::cuda::sm120 {

Instance tile256x128x128() { return instance_of<Tile256x128x128>(); }

}  // namespace nvfp4::cuda::sm120
