// What a caller asks of the core: raw pointers, sizes and choices. No ownership, no torch, no Python.
#pragma once

#include <cstdint>

namespace nvfp4 {

enum class DType : int32_t { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2 };

enum class ScaleLayout : int32_t { kPlain = 0, kSwizzled128x4 = 1 };

// kNvfp4 computes amax / 6 and the global scale in float32; kCompressedTensors in the tensor's own dtype, and writes
// -0.0 as code 0, so that weights come out byte for byte as llm-compressor writes them.
enum class Scheme : int32_t { kNvfp4 = 0, kCompressedTensors = 1 };

// Who gives the global scale: the caller (one, or one a row), or the kernel from the data.
enum class GlobalScale : int32_t { kGivenTensor = 0, kGivenRow = 1, kComputeTensor = 2, kComputeRow = 3 };

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
  uint8_t* scale = nullptr;       // [rows, cols / 16], or swizzled_bytes(rows, cols / 16)
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

}  // namespace nvfp4
