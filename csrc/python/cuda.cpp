// nvfp4._C.cuda: the CUDA kernels for Python; pointers, sizes and a stream, all as integers.
#include "nvfp4/cuda.h"

#include <pybind11/stl.h>

#include "arguments.h"
#include "definitions.h"
#include "dispatch/sm120_choice.h"

namespace py = pybind11;
using py::literals::operator""_a;

namespace {

using namespace nvfp4::python;
using nvfp4::DequantizeProblem;
using nvfp4::GemmPreparation;
using nvfp4::GpuGemmProblem;
using nvfp4::QuantizeProblem;
using nvfp4::dispatch::Sm120Plan;

nvfp4::cuda::Stream stream_of(Address stream) { return pointer<void>(stream); }

void quantize(Address x, int dtype, int64_t rows, int64_t cols, int64_t row_stride, int mode, int scheme,
              int scale_layout, Address global_scale, Address packed, Address scale, Address workspace,
              Address stream) {
  const QuantizeProblem problem =
      quantize_problem(x, dtype, rows, cols, row_stride, mode, scheme, scale_layout, global_scale, packed, scale);
  nvfp4::cuda::quantize(problem, pointer<void>(workspace), stream_of(stream));
}

GemmPreparation preparation(Address weight_global_scale, Address alpha, Address zeros, int64_t zero_count) {
  GemmPreparation gemm;
  gemm.weight_global_scale[0] = pointer<const float>(weight_global_scale);
  gemm.alpha[0] = pointer<float>(alpha);
  gemm.zeros = pointer<uint32_t>(zeros);
  gemm.zero_count = zero_count;
  return gemm;
}

void quantize_tokens(Address x, int dtype, int64_t rows, int64_t cols, int64_t row_stride, int mode,
                     Address global_scale, Address packed, int64_t packed_pitch, Address scale, Address workspace,
                     Address weight_global_scale, Address alpha, Address zeros, int64_t zero_count, Address stream,
                     Address up_global_scale, Address up_alpha, Address next_input_global_scale,
                     Address next_weight_global_scale, Address next_alpha) {
  QuantizeProblem problem = quantize_problem(x, dtype, rows, cols, row_stride, mode, 0, 0, global_scale, packed, scale);
  problem.scale_layout = nvfp4::ScaleLayout::kSwizzled32x4;
  problem.packed_pitch = packed_pitch;
  problem.gemm = preparation(weight_global_scale, alpha, zeros, zero_count);
  problem.gemm.weight_global_scale[1] = pointer<const float>(up_global_scale);
  problem.gemm.alpha[1] = pointer<float>(up_alpha);
  problem.gemm.next_global_scale[0] = pointer<const float>(next_input_global_scale);
  problem.gemm.next_global_scale[1] = pointer<const float>(next_weight_global_scale);
  problem.gemm.next_alpha = pointer<float>(next_alpha);
  nvfp4::cuda::quantize(problem, pointer<void>(workspace), stream_of(stream));
}

void gated_quantize(Address x, int dtype, int64_t rows, int64_t cols, int64_t row_stride, int activation,
                    bool interleaved, int mode, int scale_layout, Address global_scale, Address packed,
                    int64_t packed_pitch, Address scale, Address values, Address weight_global_scale, Address alpha,
                    Address zeros, int64_t zero_count, Address stream) {
  QuantizeProblem problem = quantize_problem(x, dtype, rows, cols, row_stride, mode, 0, 0, global_scale, packed, scale);
  problem.scale_layout = any_scale_layout_of(scale_layout);
  problem.packed_pitch = packed_pitch;
  problem.gemm = preparation(weight_global_scale, alpha, zeros, zero_count);
  problem.activation = enumerator("activation", activation, nvfp4::Activation::kSilu);
  nvfp4::check(problem.activation != nvfp4::Activation::kNone, "gated_quantize: activation: got 0, wanted 1 to 3");
  problem.interleaved = interleaved;
  problem.values = pointer<void>(values);
  nvfp4::cuda::quantize(problem, nullptr, stream_of(stream));
}

void rms_norm_quantize(Address x, int dtype, int64_t rows, int64_t cols, int64_t row_stride, Address weight, double eps,
                       bool unit_offset, Address residual, int64_t residual_stride, Address total, int mode,
                       int scale_layout, Address global_scale, Address packed, int64_t packed_pitch, Address scale,
                       Address values, Address weight_global_scale, Address alpha, Address up_weight_global_scale,
                       Address up_alpha, Address zeros, int64_t zero_count, Address stream) {
  QuantizeProblem problem = quantize_problem(x, dtype, rows, cols, row_stride, mode, 0, 0, global_scale, packed, scale);
  problem.scale_layout = any_scale_layout_of(scale_layout);
  problem.packed_pitch = packed_pitch;
  problem.gemm = preparation(weight_global_scale, alpha, zeros, zero_count);
  problem.gemm.weight_global_scale[1] = pointer<const float>(up_weight_global_scale);
  problem.gemm.alpha[1] = pointer<float>(up_alpha);
  nvfp4::check(weight != 0 || cols == 0, "rms_norm_quantize: the weight is null");
  problem.norm.weight = pointer<const void>(weight);
  problem.norm.eps = eps, problem.norm.unit_offset = unit_offset;
  problem.norm.residual = pointer<const void>(residual), problem.norm.residual_stride = residual_stride;
  problem.norm.sum = pointer<void>(total);
  problem.values = pointer<void>(values);
  nvfp4::cuda::quantize(problem, nullptr, stream_of(stream));
}

void quantize_dequantize(Address x, int dtype, int64_t rows, int64_t cols, int64_t row_stride, int mode, int scheme,
                         Address global_scale, Address out, int out_dtype, Address workspace, Address stream) {
  QuantizeProblem problem = quantize_problem(x, dtype, rows, cols, row_stride, mode, scheme, 0, global_scale, 0, 0);
  nvfp4::check(out != 0 || rows == 0 || cols == 0, "quantize_dequantize: the output is null");
  problem.dequantized = pointer<void>(out), problem.dequantized_dtype = dtype_of("out_dtype", out_dtype);
  nvfp4::cuda::quantize(problem, pointer<void>(workspace), stream_of(stream));
}

void prepare_tokens(Address scale, int64_t rows, int64_t groups, Address global_scale, bool per_row, Address swizzled,
                    Address weight_global_scale, Address alpha, Address zeros, int64_t zero_count, Address stream) {
  nvfp4::cuda::prepare_tokens(pointer<const uint8_t>(scale), rows, groups, pointer<const float>(global_scale), per_row,
                              pointer<uint8_t>(swizzled), preparation(weight_global_scale, alpha, zeros, zero_count),
                              stream_of(stream));
}

void to_units(Address packed, Address scale, int64_t n, int64_t k, Address units, Address stream) {
  nvfp4::cuda::to_units(pointer<const uint8_t>(packed), pointer<const uint8_t>(scale), n, k, pointer<uint8_t>(units),
                        stream_of(stream));
}

void from_units(Address units, int64_t n, int64_t k, Address packed, Address scale, Address stream) {
  nvfp4::cuda::from_units(pointer<const uint8_t>(units), n, k, pointer<uint8_t>(packed), pointer<uint8_t>(scale),
                          stream_of(stream));
}

void gemm(const Sm120Plan& plan, int64_t m, int64_t n, int64_t k, Address a_packed, int64_t a_pitch, Address a_scale,
          Address b_units, Address alpha, Address up_alpha, bool alpha_per_token, Address bias, int bias_dtype,
          int activation, Address residual, Address out, int out_dtype, Address out_packed, int64_t out_pitch,
          Address out_scale, Address out_global_scale, Address partials, Address arrivals, bool programmatic,
          Address stream) {
  GpuGemmProblem p;
  p.m = m, p.n = n, p.k = k;
  p.a_packed = pointer<const uint8_t>(a_packed), p.a_pitch = a_pitch, p.a_scale = pointer<const uint8_t>(a_scale);
  p.b_units = pointer<const uint8_t>(b_units);
  p.alpha = pointer<const float>(alpha), p.up_alpha = pointer<const float>(up_alpha);
  p.alpha_per_token = alpha_per_token;
  p.bias = pointer<const void>(bias), p.bias_dtype = dtype_of("bias_dtype", bias_dtype);
  p.activation = enumerator("activation", activation, nvfp4::Activation::kSilu);
  p.residual = pointer<const void>(residual);
  p.out = pointer<void>(out), p.out_dtype = dtype_of("out_dtype", out_dtype);
  p.out_packed = pointer<uint8_t>(out_packed), p.out_pitch = out_pitch, p.out_scale = pointer<uint8_t>(out_scale);
  p.out_global_scale = pointer<const float>(out_global_scale);
  nvfp4::cuda::gemm(p, plan, pointer<void>(partials), pointer<uint32_t>(arrivals), programmatic, stream_of(stream));
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

int64_t mma_loop(int steps, int blocks, Address operands, Address out, Address stream) {
  return nvfp4::cuda::mma_loop(steps, blocks, pointer<const uint32_t>(operands), pointer<float>(out),
                               stream_of(stream));
}

int64_t read_loop(Address data, int64_t bytes, int blocks, Address out, Address stream) {
  return nvfp4::cuda::read_loop(pointer<const uint8_t>(data), bytes, blocks, pointer<uint32_t>(out), stream_of(stream));
}

void instruction(int64_t tiles, Address a, Address b, Address c, Address sfa, Address sfb, int thread_id_a,
                 int thread_id_b, Address d, Address stream) {
  nvfp4::cuda::InstructionOperands operands;
  operands.a = pointer<const uint32_t>(a), operands.b = pointer<const uint32_t>(b);
  operands.c = pointer<const float>(c), operands.d = pointer<float>(d);
  operands.sfa = pointer<const uint32_t>(sfa), operands.sfb = pointer<const uint32_t>(sfb);
  nvfp4::cuda::instruction(operands, tiles, thread_id_a, thread_id_b, stream_of(stream));
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
  m.def("driver_refusal", &nvfp4::cuda::driver_refusal, "Why the driver cannot serve this library, or \"\".");
  m.def("gpu", &nvfp4::cuda::gpu, "index"_a, "What the driver says of a GPU.");
  m.def("emulation", &nvfp4::cuda::emulation,
        "What stands in for SM120's FP4 instruction: '' (nothing), 'model', 'surrogate' or 'disturbed'.");
  m.def("gemm_runs_on", &nvfp4::cuda::gemm_runs_on, "major"_a, "minor"_a, "Whether the matrix product is served.");
  m.def("quantize_tokens", &quantize_tokens, NoGil(), "x"_a, "dtype"_a, "rows"_a, "cols"_a, "row_stride"_a, "mode"_a,
        "global_scale"_a, "packed"_a, "packed_pitch"_a, "scale"_a, "workspace"_a, "weight_global_scale"_a, "alpha"_a,
        "zeros"_a, "zero_count"_a, "stream"_a, "up_global_scale"_a = 0, "up_alpha"_a = 0,
        "next_input_global_scale"_a = 0, "next_weight_global_scale"_a = 0, "next_alpha"_a = 0,
        "Quantise for a product: scales 32x4, alpha, zeroed counters; and the factors of up rows and a next product.");
  m.def("gated_quantize", &gated_quantize, NoGil(), "x"_a, "dtype"_a, "rows"_a, "cols"_a, "row_stride"_a,
        "activation"_a, "interleaved"_a, "mode"_a, "scale_layout"_a, "global_scale"_a, "packed"_a, "packed_pitch"_a,
        "scale"_a, "values"_a, "weight_global_scale"_a, "alpha"_a, "zeros"_a, "zero_count"_a, "stream"_a,
        "act(gate) * up of x [rows, 2 * cols], quantised; also for a product, as quantize_tokens.");
  m.def("rms_norm_quantize", &rms_norm_quantize, NoGil(), "x"_a, "dtype"_a, "rows"_a, "cols"_a, "row_stride"_a,
        "weight"_a, "eps"_a, "unit_offset"_a, "residual"_a, "residual_stride"_a, "total"_a, "mode"_a, "scale_layout"_a,
        "global_scale"_a, "packed"_a, "packed_pitch"_a, "scale"_a, "values"_a, "weight_global_scale"_a, "alpha"_a,
        "up_weight_global_scale"_a, "up_alpha"_a, "zeros"_a, "zero_count"_a, "stream"_a,
        "The RMS norm of x + residual, quantised; also for a product.");
  m.def("quantize_dequantize", &quantize_dequantize, NoGil(), "x"_a, "dtype"_a, "rows"_a, "cols"_a, "row_stride"_a,
        "mode"_a, "scheme"_a, "global_scale"_a, "out"_a, "out_dtype"_a, "workspace"_a, "stream"_a,
        "The values that quantize's codes and scales stand for; a computed global scale may be 0.");
  m.def("prepare_tokens", &prepare_tokens, NoGil(), "scale"_a, "rows"_a, "groups"_a, "global_scale"_a, "per_row"_a,
        "swizzled"_a, "weight_global_scale"_a, "alpha"_a, "zeros"_a, "zero_count"_a, "stream"_a,
        "The same of tokens that are quantised already.");
  m.def("to_units", &to_units, NoGil(), "packed"_a, "scale"_a, "n"_a, "k"_a, "units"_a, "stream"_a,
        "Plain weight bytes to n128k128.");
  m.def("from_units", &from_units, NoGil(), "units"_a, "n"_a, "k"_a, "packed"_a, "scale"_a, "stream"_a,
        "The inverse of to_units.");
  m.def("gemm", &gemm, NoGil(), "plan"_a, "m"_a, "n"_a, "k"_a, "a_packed"_a, "a_pitch"_a, "a_scale"_a, "b_units"_a,
        "alpha"_a, "up_alpha"_a, "alpha_per_token"_a, "bias"_a, "bias_dtype"_a, "activation"_a, "residual"_a, "out"_a,
        "out_dtype"_a, "out_packed"_a, "out_pitch"_a, "out_scale"_a, "out_global_scale"_a, "partials"_a, "arrivals"_a,
        "programmatic"_a, "stream"_a, "The matrix product of SM120 by a plan.");
  m.def("instruction", &instruction, NoGil(), "tiles"_a, "a"_a, "b"_a, "c"_a, "sfa"_a, "sfb"_a, "thread_id_a"_a,
        "thread_id_b"_a, "d"_a, "stream"_a, "SM120's block-scaled MMA on registers of whole warps.");
  m.def("mma_loop", &mma_loop, NoGil(), "steps"_a, "blocks"_a, "operands"_a, "out"_a, "stream"_a,
        "The product's instruction from registers alone; returns how many run.");
  m.def("read_loop", &read_loop, NoGil(), "data"_a, "nbytes"_a, "blocks"_a, "out"_a, "stream"_a,
        "Memory read by bulk copies; returns the bytes.");
}
