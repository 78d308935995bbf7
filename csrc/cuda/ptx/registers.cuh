// Registers moved between the warpgroups of a thread block (PTX ISA, "setmaxnreg"): all warps of a warpgroup call it.
#pragma once

namespace nvfp4::ptx {

template <int kRegisters>
__device__ __forceinline__ void give_registers_down_to() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

template <int kRegisters>
__device__ __forceinline__ void take_registers_up_to() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// threadIdx.x, read at this very place: the compiler keeps the variable in a register, once it has read it.
__device__ __forceinline__ int thread_index() {
  int index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  return index;
}

}  // namespace nvfp4::ptx
