// Which GPUs this library has code for.
#include <sstream>

#include "nvfp4/cuda.h"

namespace nvfp4::cuda {

std::vector<std::string> built_archs() {
  std::vector<std::string> archs;
  std::istringstream list(NVFP4_BUILT_CUDA_ARCHS);
  for (std::string arch; std::getline(list, arch, ',');) archs.push_back(arch);
  return archs;
}

bool runs_on(int major, int minor) {
  const int capability = 10 * major + minor;
  for (const std::string& arch : built_archs()) {
    const int built = std::stoi(arch);
    // "a" is one GPU; "f" is its family: the same major number, from that minor one on.
    if (arch.back() == 'f' ? built / 10 == major && built <= capability : built == capability) return true;
  }
  return false;
}

}  // namespace nvfp4::cuda
