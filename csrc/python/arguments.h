// What the bindings share: pointers travel as integers and enumerations as their values in nvfp4/problem.h, so that
// neither torch nor numpy is needed to build them. Every kernel call releases the GIL; the caller keeps the memory
// behind the pointers alive.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

#include "nvfp4/errors.h"
#include "nvfp4/problem.h"

namespace nvfp4::python {

namespace py = pybind11;

using Address = std::uintptr_t;  // 0 is a null pointer
using NoGil = py::call_guard<py::gil_scoped_release>;

template <typename T>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

template <typename Enum>
Enum enumerator(const char* name, int value, Enum last) {
  check(value >= 0 && value <= static_cast<int>(last), name, ": got ", value, ", wanted 0 to ", static_cast<int>(last),
        " (nvfp4/problem.h)");
  return static_cast<Enum>(value);
}

inline DType dtype_of(const char* name, int value) { return enumerator(name, value, DType::kBFloat16); }

inline ScaleLayout scale_layout_of(int value) { return enumerator("scale_layout", value, ScaleLayout::kSwizzled128x4); }

inline ScaleLayout any_scale_layout_of(int value) {
  return enumerator("scale_layout", value, ScaleLayout::kSwizzled32x4);
}

inline GlobalScale mode_of(int value) { return enumerator("mode", value, GlobalScale::kComputeRow); }

inline QuantizeProblem quantize_problem(Address x, int dtype, int64_t rows, int64_t cols, int64_t row_stride, int mode,
                                        int scheme, int scale_layout, Address global_scale, Address packed,
                                        Address scale) {
  QuantizeProblem problem;
  problem.x = pointer<const void>(x);
  problem.dtype = dtype_of("dtype", dtype);
  problem.rows = rows;
  problem.cols = cols;
  problem.row_stride = row_stride;
  problem.mode = mode_of(mode);
  problem.scheme = enumerator("scheme", scheme, Scheme::kCompressedTensors);
  problem.scale_layout = scale_layout_of(scale_layout);
  problem.global_scale = pointer<float>(global_scale);
  problem.packed = pointer<uint8_t>(packed);
  problem.scale = pointer<uint8_t>(scale);
  return problem;
}

inline DequantizeProblem dequantize_problem(Address packed, Address scale, int scale_layout, Address global_scale,
                                            bool global_scale_per_row, int64_t rows, int64_t cols, Address out,
                                            int dtype) {
  DequantizeProblem problem;
  problem.packed = pointer<const uint8_t>(packed);
  problem.scale = pointer<const uint8_t>(scale);
  problem.scale_layout = scale_layout_of(scale_layout);
  problem.global_scale = pointer<const float>(global_scale);
  problem.global_scale_per_row = global_scale_per_row;
  problem.rows = rows;
  problem.cols = cols;
  problem.out = pointer<void>(out);
  problem.dtype = dtype_of("dtype", dtype);
  return problem;
}

}  // namespace nvfp4::python
