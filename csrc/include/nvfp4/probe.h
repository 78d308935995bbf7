// What this machine can do at best, measured: the roofs that gemm's speed is compared with. A benchmark calls these
// in turn with the kernels, because a shared machine's speed changes from second to second.
#pragma once

#include <cstdint>

#include "nvfp4/problem.h"

namespace nvfp4::cpu {

// 8-bit multiply-adds per second of the W4A4 inner loop on decoded data that stays in the first-level cache: groups of
// 16 products summed exactly, converted to float32, scaled by both block scales, added to a running sum. It is the loop
// of the instruction set in use (see set_isa), on `threads` threads (0: as many as a gemm would take), all of them
// together. `iterations` of 2^16 multiply-adds a thread; throws nvfp4::Error unless it is positive.
double dot_loop(int64_t iterations, int threads = 0);

// The same of the W4A16 inner loop for activations of this type; `iterations` of 2^15 multiply-adds a thread.
double float_dot_loop(int64_t iterations, DType activations, int threads = 0);

// Bytes per second of reading data[0 .. bytes) once, each thread its own contiguous part: the better of the first half,
// which leaves fetching to the hardware, and the second, which asks ahead, as some machines (and busy ones) need. The
// caller makes the buffer, fills it, and makes it much larger than the caches. Throws nvfp4::Error when data is null or
// bytes < 1.
double read_bandwidth(const void* data, int64_t bytes, int threads = 0);

}  // namespace nvfp4::cpu
