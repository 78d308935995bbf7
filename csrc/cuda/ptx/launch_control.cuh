// Programmatic dependent launch (PTX ISA, "griddepcontrol"): a kernel may start while the one before it still runs.
#pragma once

namespace nvfp4::ptx {

// Returns once every kernel this one depends on is complete and its memory visible.
__device__ __forceinline__ void wait_for_dependencies() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

// Lets the kernels that depend on this one start, as soon as every thread block has said so or ended.
__device__ __forceinline__ void launch_dependents() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

}  // namespace nvfp4::ptx
