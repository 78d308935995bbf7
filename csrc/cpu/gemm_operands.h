// What the gemm driver makes before and after the kernels run: token blocks from activations, outputs from sums.
#pragma once

#include <cstdint>

#include "gemm_kernels.h"
#include "nvfp4/problem.h"

namespace nvfp4::cpu {

// A 64-byte aligned buffer that keeps its memory between calls; contents are not preserved when it grows.
class Scratch {
 public:
  Scratch() = default;
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  uint8_t* reserve(int64_t bytes);

 private:
  uint8_t* data_ = nullptr;
  int64_t capacity_ = 0;
};

// Tokens [first, first + width) of a W4A4 problem as one block of gemm_kernels.h, tiles [first_tile, first_tile +
// tile_count) of their columns, padded with zeros. Throws when an activation scale has its sign bit set.
void expand_tokens(const GemmProblem& problem, int64_t first, int width, int64_t first_tile, int64_t tile_count,
                   bool unsigned_codes, int32_t offset_bias, uint8_t* block);

// The same for the float activations of W4A16.
void widen_tokens(const GemmProblem& problem, int64_t first, int width, int64_t first_tile, int64_t tile_count,
                  float* block);

// The same as bfloat16, of bfloat16 activations.
void copy_tokens(const GemmProblem& problem, int64_t first, int width, int64_t first_tile, int64_t tile_count,
                 uint8_t* block);

// Writes out[first_token + t][first_row + r] for t < width and r < rows, from the sums [width][16], or from two chains
// of sums [width][2][16] (sums_per_token 32).
void write_outputs(const GemmProblem& problem, const GemmKernels& kernels, int64_t first_token, int width,
                   int64_t first_row, int rows, const float* sums, int64_t sums_per_token);

}  // namespace nvfp4::cpu
