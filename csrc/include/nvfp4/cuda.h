// The CUDA kernels: device pointers, sizes and a stream; no ownership, no torch, no Python. Calls return before the
// work is done and never synchronise; they can be captured in a graph. The current device must be the pointers' own.
// What the core refuses, and every error of a launch, is an nvfp4::Error.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nvfp4/problem.h"

namespace nvfp4::dispatch {
struct Gpu;
struct Sm120Plan;
}  // namespace nvfp4::dispatch

namespace nvfp4::cuda {

using Stream = void*;  // a cudaStream_t

// Architectures whose code this library holds, such as "90a" and "120f"; empty without the CUDA part.
std::vector<std::string> built_archs();

// Why the driver here cannot serve this library, or an empty string.
std::string driver_refusal();

// Whether code of this library runs on a GPU of this compute capability.
bool runs_on(int major, int minor);

// Device memory, of any contents, that a quantize call needs beside its operands when it computes one tensor's global
// scale.
inline constexpr int64_t kWorkspaceBytes = sizeof(uint32_t);

// x [rows, cols], or what a gated activation or an RMS norm makes of it, to codes, block scales and, where the mode
// computes it, global scales. Padding of swizzled scales is written with zeros.
void quantize(const QuantizeProblem& problem, void* workspace, Stream stream);

// Codes and scales to values.
void dequantize(const DequantizeProblem& problem, Stream stream);

// Block scales between the plain layout and 128x4.
void swizzle_scales(const uint8_t* plain, int64_t rows, int64_t groups, uint8_t* swizzled, Stream stream);
void unswizzle_scales(const uint8_t* swizzled, int64_t rows, int64_t groups, uint8_t* plain, Stream stream);

// What the driver says of a GPU.
dispatch::Gpu gpu(int index);

// --- the matrix product of SM120
// --------------------------------------------------------------------------------------

// What stands in the place of SM120's FP4 instruction in this build: "" in a normal one; "model", "surrogate" or
// "disturbed" (the surrogate with pauses and poison).
std::string emulation();

// Whether the product runs on a GPU of this compute capability.
bool gemm_runs_on(int major, int minor);

// Plain weight bytes [n, k / 2] and [n, k / 16] to n128k128 units, and back.
void to_units(const uint8_t* packed, const uint8_t* scale, int64_t n, int64_t k, uint8_t* units, Stream stream);
void from_units(const uint8_t* units, int64_t n, int64_t k, uint8_t* packed, uint8_t* scale, Stream stream);

// Tokens that are quantised already: plain scales [rows, groups] to 32x4, and what a product wants beside them.
void prepare_tokens(const uint8_t* scale, int64_t rows, int64_t groups, const float* global_scale, bool per_row,
                    uint8_t* swizzled, const GemmPreparation& gemm, Stream stream);

// The product by a plan of dispatch/sm120_choice.h. `partials` and `arrivals` are what the plan wants; arrivals are
// zero. `programmatic`: the kernel may start while the one before it in the stream still runs.
void gemm(const GpuGemmProblem& problem, const dispatch::Sm120Plan& plan, void* partials, uint32_t* arrivals,
          bool programmatic, Stream stream);

// Rooflines to be timed: the product's instruction from registers alone (512 words of operands, 256 numbers a thread
// block out; returns how many run), and memory read by bulk copies (128 words a thread block out; returns the bytes).
int64_t mma_loop(int steps, int blocks, const uint32_t* operands, float* out, Stream stream);
int64_t read_loop(const uint8_t* data, int64_t bytes, int blocks, uint32_t* out, Stream stream);

// Registers of whole warps, as PTX lays them out: a [tiles, 32, 4], b [tiles, 32, 2], c and d [tiles, 32, 4], scales
// [tiles, 32].
struct InstructionOperands {
  const uint32_t* a = nullptr;
  const uint32_t* b = nullptr;
  const float* c = nullptr;
  const uint32_t* sfa = nullptr;
  const uint32_t* sfb = nullptr;
  float* d = nullptr;
};

// m16n8k64 on the GPU, tile by tile.
void instruction(const InstructionOperands& operands, int64_t tiles, int thread_id_a, int thread_id_b, Stream stream);

}  // namespace nvfp4::cuda
