// Which GPUs this library has code for.
#include <sstream>

#include "cuda/launch.cuh"
#include "dispatch/sm120_choice.h"
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

dispatch::Gpu gpu(int index) {
  const auto attribute = [&](cudaDeviceAttr name) {
    int value = 0;
    check_cuda(cudaDeviceGetAttribute(&value, name, index), "asking for a GPU's attributes");
    return value;
  };
  dispatch::Gpu gpu;
  gpu.sms = attribute(cudaDevAttrMultiProcessorCount);
  gpu.clock = attribute(cudaDevAttrClockRate) * 1e3;  // kHz
  // Two transfers a clock, of the bus's width.
  gpu.bandwidth = 2.0 * attribute(cudaDevAttrMemoryClockRate) * 1e3 * attribute(cudaDevAttrGlobalMemoryBusWidth) / 8;
  return gpu;
}

std::string emulation() {
#if defined(NVFP4_SM120_MODEL)
  return "model";
#elif defined(NVFP4_SM120_DISTURBED)
  return "disturbed";
#elif defined(NVFP4_SM120_SURROGATE)
  return "surrogate";
#else
  return "";
#endif
}

bool gemm_runs_on(int major, int minor) {
  return runs_on(major, minor) && (emulation().empty() ? major == 12 : major >= 9);
}

}  // namespace nvfp4::cuda
