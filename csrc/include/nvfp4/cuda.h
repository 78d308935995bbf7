// The CUDA kernels: device pointers, sizes and a stream; no ownership, no torch, no Python. Calls return before the
// work is done and never synchronise; they can be captured in a graph. The current device must be the pointers' own.
// What the core refuses, and every error of a launch, is an nvfp4::Error.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nvfp4/problem.h"

namespace nvfp4::cuda {

using Stream = void*;  // a cudaStream_t

// Architectures whose code this library holds, such as "90a" and "120f"; empty without the CUDA part.
std::vector<std::string> built_archs();

// Whether code of this library runs on a GPU of this compute capability.
bool runs_on(int major, int minor);

// Device memory, of any contents, that a quantize call needs beside its operands when it computes one tensor's global
// scale.
inline constexpr int64_t kWorkspaceBytes = sizeof(uint32_t);

// x [rows, cols] to codes, block scales and, where the mode computes it, global scales. Padding of swizzled scales is
// written with zeros.
void quantize(const QuantizeProblem& problem, void* workspace, Stream stream);

// Codes and scales to values.
void dequantize(const DequantizeProblem& problem, Stream stream);

// Block scales between the plain layout and 128x4.
void swizzle_scales(const uint8_t* plain, int64_t rows, int64_t groups, uint8_t* swizzled, Stream stream);
void unswizzle_scales(const uint8_t* swizzled, int64_t rows, int64_t groups, uint8_t* plain, Stream stream);

}  // namespace nvfp4::cuda
