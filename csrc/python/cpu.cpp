// nvfp4._C.cpu: the CPU kernels for Python.
#include "nvfp4/cpu.h"

#include <pybind11/stl.h>

#include <string>
#include <tuple>
#include <vector>

#include "arguments.h"
#include "definitions.h"
#include "nvfp4/probe.h"

namespace py = pybind11;
using py::literals::operator""_a;

namespace {

using namespace nvfp4::python;
using nvfp4::GemmProblem;

constexpr int kNoBias = -1;  // as a bias_dtype

// What W4A4, W4A16 and linear share: the weight, the bias and the output.
GemmProblem gemm_problem(int64_t m, int64_t n, int64_t k, Address b_tiles, Address b_global_scale,
                         bool b_global_scale_per_row, Address bias, int bias_dtype, Address out, int out_dtype) {
  GemmProblem problem;
  problem.m = m;
  problem.n = n;
  problem.k = k;
  problem.b_tiles = pointer<const uint8_t>(b_tiles);
  problem.b_global_scale = pointer<const float>(b_global_scale);
  problem.b_global_scale_per_row = b_global_scale_per_row;
  if (bias_dtype != kNoBias) {
    nvfp4::check(bias != 0 || n == 0, "gemm: got a bias without memory, wanted one whose values can be read");
    problem.bias = pointer<const void>(bias);
    problem.bias_dtype = dtype_of("bias_dtype", bias_dtype);
  }
  problem.out = pointer<void>(out);
  problem.out_dtype = dtype_of("out_dtype", out_dtype);
  return problem;
}

void quantize(Address x, int dtype, int64_t rows, int64_t cols, int64_t row_stride, int mode, int scheme,
              int scale_layout, Address global_scale, Address packed, Address scale, int threads) {
  nvfp4::cpu::quantize(
      quantize_problem(x, dtype, rows, cols, row_stride, mode, scheme, scale_layout, global_scale, packed, scale),
      threads);
}

void dequantize(Address packed, Address scale, int scale_layout, Address global_scale, bool global_scale_per_row,
                int64_t rows, int64_t cols, Address out, int dtype, int threads) {
  nvfp4::cpu::dequantize(
      dequantize_problem(packed, scale, scale_layout, global_scale, global_scale_per_row, rows, cols, out, dtype),
      threads);
}

void repack(Address packed, Address scale, int64_t n, int64_t k, Address tiles, int threads) {
  nvfp4::cpu::repack(pointer<const uint8_t>(packed), pointer<const uint8_t>(scale), n, k, pointer<uint8_t>(tiles),
                     threads);
}

void unrepack(Address tiles, int64_t n, int64_t k, Address packed, Address scale, int threads) {
  nvfp4::cpu::unrepack(pointer<const uint8_t>(tiles), n, k, pointer<uint8_t>(packed), pointer<uint8_t>(scale), threads);
}

void swizzle_scales(Address plain, int64_t rows, int64_t groups, Address swizzled) {
  nvfp4::cpu::swizzle_scales(pointer<const uint8_t>(plain), rows, groups, pointer<uint8_t>(swizzled));
}

void unswizzle_scales(Address swizzled, int64_t rows, int64_t groups, Address plain) {
  nvfp4::cpu::unswizzle_scales(pointer<const uint8_t>(swizzled), rows, groups, pointer<uint8_t>(plain));
}

void gemm_w4a4(int64_t m, int64_t n, int64_t k, Address a_packed, Address a_scale, Address a_global_scale,
               bool a_global_scale_per_row, Address b_tiles, Address b_global_scale, bool b_global_scale_per_row,
               Address bias, int bias_dtype, Address out, int out_dtype, int threads) {
  GemmProblem problem =
      gemm_problem(m, n, k, b_tiles, b_global_scale, b_global_scale_per_row, bias, bias_dtype, out, out_dtype);
  problem.a_packed = pointer<const uint8_t>(a_packed);
  problem.a_scale = pointer<const uint8_t>(a_scale);
  problem.a_global_scale = pointer<const float>(a_global_scale);
  problem.a_global_scale_per_row = a_global_scale_per_row;
  nvfp4::cpu::gemm(problem, threads);
}

void gemm_w4a16(int64_t m, int64_t n, int64_t k, Address a, int a_dtype, int64_t a_row_stride, Address b_tiles,
                Address b_global_scale, bool b_global_scale_per_row, Address bias, int bias_dtype, Address out,
                int out_dtype, int threads) {
  GemmProblem problem =
      gemm_problem(m, n, k, b_tiles, b_global_scale, b_global_scale_per_row, bias, bias_dtype, out, out_dtype);
  problem.a = pointer<const void>(a);
  problem.a_dtype = dtype_of("a_dtype", a_dtype);
  problem.a_row_stride = a_row_stride;
  nvfp4::cpu::gemm(problem, threads);
}

void linear_w4a4(int64_t m, int64_t n, int64_t k, Address x, int x_dtype, int64_t x_row_stride, int mode,
                 Address global_scale, Address b_tiles, Address b_global_scale, bool b_global_scale_per_row,
                 Address bias, int bias_dtype, Address out, int out_dtype, int threads) {
  const GemmProblem problem =
      gemm_problem(m, n, k, b_tiles, b_global_scale, b_global_scale_per_row, bias, bias_dtype, out, out_dtype);
  constexpr int kScheme = static_cast<int>(nvfp4::Scheme::kNvfp4);
  constexpr int kScaleLayout = static_cast<int>(nvfp4::ScaleLayout::kPlain);
  const auto activations =
      quantize_problem(x, x_dtype, m, k, x_row_stride, mode, kScheme, kScaleLayout, global_scale, 0, 0);
  nvfp4::cpu::linear(activations, problem, threads);
}

double float_dot_loop(int64_t iterations, int activations, int threads) {
  return nvfp4::cpu::float_dot_loop(iterations, dtype_of("activations", activations), threads);
}

double read_bandwidth(Address data, int64_t nbytes, int threads) {
  return nvfp4::cpu::read_bandwidth(pointer<const void>(data), nbytes, threads);
}

std::vector<std::tuple<std::string, bool, bool>> isas() {
  std::vector<std::tuple<std::string, bool, bool>> result;
  for (const nvfp4::cpu::Isa& isa : nvfp4::cpu::isas()) result.emplace_back(isa.name, isa.compiled, isa.supported);
  return result;
}

}  // namespace

void define_cpu(py::module_ cpu) {
  cpu.def("isas", &isas, "Instruction sets, slowest first: (name, compiled into this module, supported by this CPU).");
  cpu.def("isa", &nvfp4::cpu::isa, "The instruction set in use.");
  cpu.def("set_isa", &nvfp4::cpu::set_isa, "name"_a, "Use this instruction set from now on; \"\" is the default one.");

  cpu.def("quantize", &quantize, NoGil(), "x"_a, "dtype"_a, "rows"_a, "cols"_a, "row_stride"_a, "mode"_a, "scheme"_a,
          "scale_layout"_a, "global_scale"_a, "packed"_a, "scale"_a, "threads"_a,
          "x [rows, cols] to codes, block scales and, where `mode` says so, global scales.");
  cpu.def("dequantize", &dequantize, NoGil(), "packed"_a, "scale"_a, "scale_layout"_a, "global_scale"_a,
          "global_scale_per_row"_a, "rows"_a, "cols"_a, "out"_a, "dtype"_a, "threads"_a,
          "Codes and scales to values: out [rows, cols].");

  cpu.def("repack", &repack, NoGil(), "packed"_a, "scale"_a, "n"_a, "k"_a, "tiles"_a, "threads"_a,
          "Plain weights to n16k64 tiles (nvfp4/layout.h).");
  cpu.def("unrepack", &unrepack, NoGil(), "tiles"_a, "n"_a, "k"_a, "packed"_a, "scale"_a, "threads"_a,
          "n16k64 tiles back to plain weights.");
  cpu.def("swizzle_scales", &swizzle_scales, NoGil(), "plain"_a, "rows"_a, "groups"_a, "swizzled"_a,
          "Plain block scales to the 128x4 layout.");
  cpu.def("unswizzle_scales", &unswizzle_scales, NoGil(), "swizzled"_a, "rows"_a, "groups"_a, "plain"_a,
          "Block scales in the 128x4 layout back to plain.");

  cpu.def("gemm_w4a4", &gemm_w4a4, NoGil(), "m"_a, "n"_a, "k"_a, "a_packed"_a, "a_scale"_a, "a_global_scale"_a,
          "a_global_scale_per_row"_a, "b_tiles"_a, "b_global_scale"_a, "b_global_scale_per_row"_a, "bias"_a,
          "bias_dtype"_a, "out"_a, "out_dtype"_a, "threads"_a, "out [m, n] = quantised a @ weight.T (+ bias).");
  cpu.def("gemm_w4a16", &gemm_w4a16, NoGil(), "m"_a, "n"_a, "k"_a, "a"_a, "a_dtype"_a, "a_row_stride"_a, "b_tiles"_a,
          "b_global_scale"_a, "b_global_scale_per_row"_a, "bias"_a, "bias_dtype"_a, "out"_a, "out_dtype"_a, "threads"_a,
          "out [m, n] = a @ dequantised weight.T (+ bias).");
  cpu.def("linear_w4a4", &linear_w4a4, NoGil(), "m"_a, "n"_a, "k"_a, "x"_a, "x_dtype"_a, "x_row_stride"_a, "mode"_a,
          "global_scale"_a, "b_tiles"_a, "b_global_scale"_a, "b_global_scale_per_row"_a, "bias"_a, "bias_dtype"_a,
          "out"_a, "out_dtype"_a, "threads"_a, "Quantises x [m, k] and then does what gemm_w4a4 does.");

  cpu.def(
      "dot_loop", &nvfp4::cpu::dot_loop, NoGil(), "iterations"_a, "threads"_a,
      "8-bit multiply-adds a second of gemm's inner loop on data in the first-level cache; one iteration is 2^16 of "
      "them a thread.");
  cpu.def(
      "float_dot_loop", &float_dot_loop, NoGil(), "iterations"_a, "activations"_a, "threads"_a,
      "The same of W4A16's inner loop for activations of this dtype; one iteration is 2^15 multiply-adds a thread.");
  cpu.def("read_bandwidth", &read_bandwidth, NoGil(), "data"_a, "nbytes"_a, "threads"_a,
          "Bytes a second of reading the buffer once; it should be much larger than the caches.");
}
