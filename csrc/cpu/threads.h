// Threads of the CPU kernels: one OpenMP parallel_for, shared with torch's own libgomp so that the two do not fight.
#pragma once

#include <cstdint>
#include <functional>

namespace nvfp4::cpu {

// How many threads a call may use: `threads`, or what the caller's OpenMP runtime would use when `threads` is 0. One in
// a child of fork(). Throws nvfp4::Error when `threads` is negative.
int resolve_threads(int threads);

// Calls body(begin, end) on contiguous, balanced, ascending ranges that cover [0, count), each on its own thread and
// none smaller than `grain` unless it is the only one. With one range it runs on the caller, without a parallel region;
// so `grain` should be worth about 10 microseconds. Every range runs with IEEE floating point (subnormals kept, ties to
// even), whatever the caller's thread had set (torch.set_flush_denormal). The first exception of a range is rethrown.
void parallel_for(int64_t count, int threads, int64_t grain, const std::function<void(int64_t, int64_t)>& body);

}  // namespace nvfp4::cpu
