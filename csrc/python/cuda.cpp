// nvfp4._C.cuda: the CUDA kernels for Python; pointers, sizes and a stream, all as integers.
#include "nvfp4/cuda.h"

#include <pybind11/stl.h>

#include "arguments.h"
#include "definitions.h"

namespace py = pybind11;
using py::literals::operator""_a;

namespace {

using namespace nvfp4::python;
using nvfp4::DequantizeProblem;
using nvfp4::QuantizeProblem;

nvfp4::cuda::Stream stream_of(Address stream) { return pointer<void>(stream); }

void quantize(Address x, int dtype, int64_t rows, int64_t cols, int64_t row_stride, int mode, int scheme,
              int scale_layout, Address global_scale, Address packed, Address scale, Address workspace,
              Address stream) {
  const QuantizeProblem problem =
      quantize_problem(x, dtype, rows, cols, row_stride, mode, scheme, scale_layout, global_scale, packed, scale);
  nvfp4::cuda::quantize(problem, pointer<void>(workspace), stream_of(stream));
}

void dequantize(Address packed, Address scale, int scale_layout, Address global_scale, bool global_scale_per_row,
                int64_t rows, int64_t cols, Address out, int dtype, Address stream) {
  const DequantizeProblem problem =
      dequantize_problem(packed, scale, scale_layout, global_scale, global_scale_per_row, rows, cols, out, dtype);
  nvfp4::cuda::dequantize(problem, stream_of(stream));
}

void swizzle_scales(Address plain, int64_t rows, int64_t groups, Address swizzled, Address stream) {
  nvfp4::cuda::swizzle_scales(pointer<const uint8_t>(plain), rows, groups, pointer<uint8_t>(swizzled),
                              stream_of(stream));
}

void unswizzle_scales(Address swizzled, int64_t rows, int64_t groups, Address plain, Address stream) {
  nvfp4::cuda::unswizzle_scales(pointer<const uint8_t>(swizzled), rows, groups, pointer<uint8_t>(plain),
                                stream_of(stream));
}

}  // namespace

void define_cuda(py::module_ m) {
  m.def("built_archs", &nvfp4::cuda::built_archs, "Architectures whose code this library holds.");
  m.def("runs_on", &nvfp4::cuda::runs_on, "major"_a, "minor"_a, "Whether a GPU of this compute capability is served.");
  m.attr("WORKSPACE_BYTES") = nvfp4::cuda::kWorkspaceBytes;
  m.def("quantize", &quantize, NoGil(), "x"_a, "dtype"_a, "rows"_a, "cols"_a, "row_stride"_a, "mode"_a, "scheme"_a,
        "scale_layout"_a, "global_scale"_a, "packed"_a, "scale"_a, "workspace"_a, "stream"_a,
        "As cpu.quantize; `workspace` is WORKSPACE_BYTES where one tensor's global scale is computed, 0 elsewhere.");
  m.def("dequantize", &dequantize, NoGil(), "packed"_a, "scale"_a, "scale_layout"_a, "global_scale"_a,
        "global_scale_per_row"_a, "rows"_a, "cols"_a, "out"_a, "dtype"_a, "stream"_a, "As cpu.dequantize.");
  m.def("swizzle_scales", &swizzle_scales, NoGil(), "plain"_a, "rows"_a, "groups"_a, "swizzled"_a, "stream"_a,
        "As cpu.swizzle_scales.");
  m.def("unswizzle_scales", &unswizzle_scales, NoGil(), "swizzled"_a, "rows"_a, "groups"_a, "plain"_a, "stream"_a,
        "As cpu.unswizzle_scales.");
}
