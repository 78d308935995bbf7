#include "gemm_kernels.h"

namespace nvfp4::cpu {

const GemmKernels& gemm_kernels(InstructionSet isa) {
  switch (isa) {
#if defined(NVFP4_WITH_AVX2)
    case InstructionSet::kAvx2:
      return kGemmAvx2;
#endif
#if defined(NVFP4_WITH_AVX512)
    case InstructionSet::kAvx512:
      return kGemmAvx512;
#endif
#if defined(NVFP4_WITH_AVX512VNNI)
    case InstructionSet::kAvx512Vnni:
    case InstructionSet::kAvx512Bf16:
      return kGemmAvx512Vnni;
#endif
#if defined(NVFP4_WITH_NEON)
    case InstructionSet::kNeon:
      return kGemmNeon;
#endif
    default:
      return kGemmPortable;
  }
}

const FloatGemmKernels& float_gemm_kernels(InstructionSet isa, DType activations) {
#if defined(NVFP4_WITH_AVX512BF16)
  if (isa == InstructionSet::kAvx512Bf16 && activations == DType::kBFloat16) return kBFloat16GemmAvx512;
#endif
  static_cast<void>(activations);
  switch (isa) {
#if defined(NVFP4_WITH_AVX2)
    case InstructionSet::kAvx2:
      return kFloatGemmAvx2;
#endif
#if defined(NVFP4_WITH_AVX512)
    case InstructionSet::kAvx512:
    case InstructionSet::kAvx512Vnni:
    case InstructionSet::kAvx512Bf16:
      return kFloatGemmAvx512;
#endif
#if defined(NVFP4_WITH_NEON)
    case InstructionSet::kNeon:
      return kFloatGemmNeon;
#endif
    default:
      return kFloatGemmPortable;
  }
}

}  // namespace nvfp4::cpu
