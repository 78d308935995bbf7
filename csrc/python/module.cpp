// nvfp4._C: the core's API for Python, and nothing more. nvfp4::Error becomes ValueError.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>

#include "definitions.h"
#include "nvfp4/errors.h"
#include "nvfp4/layout.h"

namespace py = pybind11;
using py::literals::operator""_a;

namespace {

#if !defined(NVFP4_BUILT_CUDA_ARCHS)
#define NVFP4_BUILT_CUDA_ARCHS ""
#define NVFP4_NVCC ""
#endif

std::map<std::string, std::string> build_info() {
  return {{"version", NVFP4_VERSION},
          {"compiler", NVFP4_COMPILER},
          {"cuda", NVFP4_BUILT_CUDA_ARCHS},
          {"nvcc", NVFP4_NVCC},
          {"build_type", NVFP4_BUILD_TYPE}};
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "The compiled core of nvfp4. Private: its signatures change without notice.";
  py::register_local_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const nvfp4::Error& error) {
      py::set_error(PyExc_ValueError, error.what());
    }
  });
  m.def("swizzled_bytes", &nvfp4::swizzled_bytes, "rows"_a, "groups"_a, "atom_rows"_a = 128,
        "Bytes of block scales [rows, groups] in the 128x4 or 32x4 layout.");
  m.def("tiles_bytes", &nvfp4::tiles_bytes, "n"_a, "k"_a, "Bytes of a weight [n, k] in n16k64 tiles.");
  m.def("build_info", &build_info,
        "version, compiler, cuda (architectures) and nvcc (both \"\" without CUDA), build_type.");
  define_dispatch(m.def_submodule("dispatch", "Which kernel a problem gets (csrc/dispatch)."));
  define_cpu(m.def_submodule("cpu", "Kernels for the CPU (nvfp4/cpu.h)."));
#if defined(NVFP4_WITH_CUDA)
  define_cuda(m.def_submodule("cuda", "Kernels for NVIDIA GPUs (nvfp4/cuda.h)."));
#endif
  define_emulation(m.def_submodule("emulation", "SM120's FP4 instruction in software (cuda/emulation)."));
}
