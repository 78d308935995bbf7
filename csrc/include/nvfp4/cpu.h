// The CPU part of the core. Every function checks its arguments, throws nvfp4::Error, and runs on `threads` OpenMP
// threads (0: as many as the caller's OpenMP runtime would use).
#pragma once

#include <string>
#include <vector>

#include "nvfp4/problem.h"

namespace nvfp4::cpu {

struct Isa {
  std::string name;  // "portable", "avx2", "avx512", "avx512vnni", "avx512bf16", "neon"
  bool compiled;     // present in this binary
  bool supported;    // and this CPU can run it
};

// Every instruction set the sources know, slowest first, with what this binary and this CPU say to it.
std::vector<Isa> isas();

// The instruction set in use: the last supported one, unless set_isa chose another. `set_isa("")` returns to the
// default. set_isa throws when the name is unknown, not compiled in, or not supported by this CPU, and says which.
std::string isa();
void set_isa(const std::string& name);

void quantize(const QuantizeProblem& problem, int threads = 0);
void dequantize(const DequantizeProblem& problem, int threads = 0);

// Plain weights to n16k64 tiles and back. repack throws on a scale with its sign bit set: block scales are not
// negative.
void repack(const uint8_t* packed, const uint8_t* scale, int64_t n, int64_t k, uint8_t* tiles, int threads = 0);
void unrepack(const uint8_t* tiles, int64_t n, int64_t k, uint8_t* packed, uint8_t* scale, int threads = 0);

void swizzle_scales(const uint8_t* plain, int64_t rows, int64_t groups, uint8_t* swizzled);
void unswizzle_scales(const uint8_t* swizzled, int64_t rows, int64_t groups, uint8_t* plain);

// W4A4 (problem.a_packed set) or W4A16 (problem.a set).
//
// W4A4: one float32 running sum per output, over the groups in ascending order. Each term (integer dot * s_b * s_a) has
// at most 20 significant bits and so is exact; only the running sum rounds. The bits therefore depend neither on the
// instruction set, nor on M, nor on the number of threads.
void gemm(const GemmProblem& problem, int threads = 0);

// Quantises x with its own rows' (kComputeRow), one (kComputeTensor) or a given global scale, then W4A4 gemm; nothing
// but the output is written for the caller. `gemm.a_*` are filled in here; quantize.packed/scale may be null.
void linear(const QuantizeProblem& x, const GemmProblem& gemm, int threads = 0);

}  // namespace nvfp4::cpu
