// What a caller asks of the core: raw pointers, sizes and choices. No ownership, no torch, no Python.
#pragma once

#include <cstdint>

namespace nvfp4 {

enum class DType : int32_t { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2 };

enum class ScaleLayout : int32_t { kPlain = 0, kSwizzled128x4 = 1, kSwizzled32x4 = 2 };

// Of a gated MLP: act(gate) * up. GELU by its tanh approximation or by erf; SiLU makes SwiGLU.
enum class Activation : int32_t { kNone = 0, kGeluTanh = 1, kGeluErf = 2, kSilu = 3 };

// kNvfp4 computes amax / 6 and the global scale in float32; kCompressedTensors in the tensor's own dtype, and writes
// -0.0 as code 0, so that weights come out byte for byte as llm-compressor writes them.
enum class Scheme : int32_t { kNvfp4 = 0, kCompressedTensors = 1 };

// Who gives the global scale: the caller (one, or one a row), or the kernel from the data.
enum class GlobalScale : int32_t { kGivenTensor = 0, kGivenRow = 1, kComputeTensor = 2, kComputeRow = 3 };

// What quantising for a matrix product prepares beside codes and scales: alpha = 1 / (global scale * the weight's), and
// zeroed counters.
struct GemmPreparation {
  const float* weight_global_scale[2] = {nullptr, nullptr};  // [1] each: of the weight, or of its gate and up rows
  float* alpha[2] = {nullptr, nullptr};  // [1], or [rows] where the global scale is a row's; or null
  // The same of a second product, whose input the first one quantises by a global scale that is known before.
  const float* next_global_scale[2] = {nullptr, nullptr};  // [1] each: of its input and of its weight
  float* next_alpha = nullptr;                             // [1], or null
  uint32_t* zeros = nullptr;                               // [zero_count], or null
  int64_t zero_count = 0;
};

// An RMS norm before quantising: y = x / sqrt(mean(x^2) + eps) * weight, rounded once. With a residual it is x +
// residual, rounded, that is normalised.
struct RmsNorm {
  const void* weight = nullptr;    // [cols] as x; null: no norm
  double eps = 0.0;                // at least 1e-30
  bool unit_offset = false;        // 1 + weight in the place of weight
  const void* residual = nullptr;  // [rows, cols] as x, or null
  int64_t residual_stride = 0;     // in elements
  void* sum = nullptr;  // [rows, cols] contiguous: x + residual. Long rows are read again, so neither's memory
};

struct QuantizeProblem {
  const void* x = nullptr;  // [rows, cols], columns contiguous
  DType dtype = DType::kFloat32;
  int64_t rows = 0;
  int64_t cols = 0;        // a multiple of 16
  int64_t row_stride = 0;  // in elements
  GlobalScale mode = GlobalScale::kGivenTensor;
  Scheme scheme = Scheme::kNvfp4;  // kCompressedTensors: per-tensor global scale only
  ScaleLayout scale_layout = ScaleLayout::kPlain;
  float* global_scale = nullptr;  // [1] or [rows]; read when given, written when computed
  uint8_t* packed = nullptr;      // [rows, cols / 2]
  uint8_t* scale = nullptr;       // [rows, cols / 16], or swizzled_bytes(rows, cols / 16, 128 or 32)
  // On the GPU only:
  int64_t packed_pitch = 0;  // bytes from row to row of codes, a multiple of 8; 0: cols / 2
  GemmPreparation gemm;
  // What is quantised in the place of x, with rows at multiples of 16 bytes and no global scale computed per tensor:
  Activation activation = Activation::kNone;  // of x [rows, 2 * cols], gate | up
  bool interleaved = false;                   // eight columns of gate, eight of up, and so on
  RmsNorm norm;
  void* values = nullptr;  // [rows, cols] contiguous as x: what was quantised; or null
  // In the place of codes and scales: their values, [rows, cols] contiguous. A computed global scale may be null then.
  void* dequantized = nullptr;
  DType dequantized_dtype = DType::kBFloat16;
};

struct DequantizeProblem {
  const uint8_t* packed = nullptr;  // [rows, cols / 2]
  const uint8_t* scale = nullptr;
  ScaleLayout scale_layout = ScaleLayout::kPlain;
  const float* global_scale = nullptr;  // [1] or [rows]
  bool global_scale_per_row = false;
  int64_t rows = 0;
  int64_t cols = 0;
  void* out = nullptr;  // [rows, cols] contiguous
  DType dtype = DType::kFloat32;
};

// y[m, n] = round_out(alpha * sum_g (s_a * s_b) * sum_16 (q_a * q_b) + bias[n]),  alpha = 1 / (G_a * G_b).
struct GemmProblem {
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 0;
  // W4A4: the activations' codes and scales, plain layout. W4A16: `a` instead.
  const uint8_t* a_packed = nullptr;  // [m, k / 2]
  const uint8_t* a_scale = nullptr;   // [m, k / 16]
  const float* a_global_scale = nullptr;
  bool a_global_scale_per_row = false;
  const void* a = nullptr;  // [m, k], columns contiguous
  DType a_dtype = DType::kBFloat16;
  int64_t a_row_stride = 0;
  const uint8_t* b_tiles = nullptr;  // n16k64, tiles_bytes(n, k)
  const float* b_global_scale = nullptr;
  bool b_global_scale_per_row = false;  // [n] rather than [1]
  const void* bias = nullptr;           // [n], or null
  DType bias_dtype = DType::kBFloat16;
  void* out = nullptr;  // [m, n] contiguous
  DType out_dtype = DType::kBFloat16;
};

// The same product as the GPU's kernels take it, with what may follow: y = round_out(alpha * sum + bias[n]), then an
// activation over gate and up rows that alternate by eight, then a residual or codes and scales again.
struct GpuGemmProblem {
  int64_t m = 0;
  int64_t n = 0;  // rows of the weight, gate and up both; a multiple of 8
  int64_t k = 0;
  const uint8_t* a_packed = nullptr;  // [m, k / 2], rows a_pitch bytes apart: a multiple of 16
  int64_t a_pitch = 0;
  const uint8_t* a_scale = nullptr;  // 32x4
  const uint8_t* b_units = nullptr;  // n128k128, units_bytes(n, k)
  const float* alpha = nullptr;      // [1] or [m]; behind an activation, of the gate rows
  const float* up_alpha = nullptr;   // of the up rows, or null: the same
  bool alpha_per_token = false;
  const void* bias = nullptr;  // [n], or null
  DType bias_dtype = DType::kBFloat16;
  Activation activation = Activation::kNone;  // else out_dtype is float16 or bfloat16
  const void* residual = nullptr;             // as `out`, added after rounding, or null
  void* out = nullptr;                        // [m, n], or [m, n / 2] behind an activation
  DType out_dtype = DType::kBFloat16;
  uint8_t* out_packed = nullptr;  // instead of `out`: its codes, rows out_pitch bytes apart,
  int64_t out_pitch = 0;
  uint8_t* out_scale = nullptr;             // scales (32x4),
  const float* out_global_scale = nullptr;  // by this global scale
};

}  // namespace nvfp4
