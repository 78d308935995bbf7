// The parts of the matrix product alone: its rooflines, to be timed, and its instruction, to be checked.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "nvfp4/cuda.h"

namespace nvfp4::cuda::sm120 {

// `steps` times the products of 64 columns by eight warps a thread block. `operands` holds 512 words, `out` 256 numbers
// a block. Returns how many instructions m16n8k64 run.
int64_t launch_mma_loop(int steps, int blocks, const uint32_t* operands, float* out, cudaStream_t stream);

// Reads whole stages of 9,216 bytes; `out` holds 128 words a block. Returns how many bytes are read.
int64_t launch_read_loop(const uint8_t* data, int64_t bytes, int blocks, uint32_t* out, cudaStream_t stream);

void launch_instruction(const InstructionOperands& operands, int64_t tiles, int thread_id_a, int thread_id_b,
                        cudaStream_t stream);

}  // namespace nvfp4::cuda::sm120
