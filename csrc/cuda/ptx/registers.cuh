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

}  // namespace nvfp4::ptx
