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

std::string driver_refusal() {
  int driver = 0;
  check_cuda(cudaDriverGetVersion(&driver), "asking for the driver's version");
  const auto text = [](int version) { return message(version / 1000, ".", version % 1000 / 10); };
  if (driver / 1000 >= CUDART_VERSION / 1000) return "";
  return message("the driver serves CUDA ", text(driver), ", this library was built by ", text(CUDART_VERSION),
                 "; install a newer driver, or an older nvcc and build again");
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
  // Some integrated GPUs report no clocks. The choice of a kernel needs no better numbers than these.
  if (gpu.clock <= 0) gpu.clock = 2e9;
  if (gpu.bandwidth <= 0) gpu.bandwidth = 4.0 * gpu.sms * gpu.clock;  // 4 bytes a cycle and SM, as the SM120 cards have
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
