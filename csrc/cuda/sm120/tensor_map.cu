#include "cuda/launch.cuh"
#include "cuda/sm120/tensor_map.h"

namespace nvfp4::cuda::sm120 {
namespace {

using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*,
                            const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                            CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

Encode driver_function() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  constexpr char kName[] = "cuTensorMapEncodeTiled";
#if CUDART_VERSION >= 12050
  const cudaError_t status = cudaGetDriverEntryPointByVersion(kName, &function, 12000, cudaEnableDefault, &found);
#else
  const cudaError_t status = cudaGetDriverEntryPoint(kName, &function, cudaEnableDefault, &found);
#endif
  check_cuda(status, "asking the driver for cuTensorMapEncodeTiled");
  check(found == cudaDriverEntryPointSuccess,
        "the driver has no cuTensorMapEncodeTiled; wanted one for CUDA 12 or later");
  return reinterpret_cast<Encode>(function);
}

}  // namespace

CUtensorMap matrix_map(const void* data, int element_bytes, int64_t width, int64_t rows, int64_t pitch, int box_width,
                       int box_rows, Swizzle swizzle) {
  static const Encode encode = driver_function();
  CUtensorMap map;
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(width), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(pitch)};
  const cuuint32_t box[2] = {static_cast<cuuint32_t>(box_width), static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t steps[2] = {1, 1};
  const CUresult status =
      encode(&map, element_bytes == 4 ? CU_TENSOR_MAP_DATA_TYPE_UINT32 : CU_TENSOR_MAP_DATA_TYPE_UINT8, 2,
             const_cast<void*>(data), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
             swizzle == Swizzle::k64Bytes ? CU_TENSOR_MAP_SWIZZLE_64B : CU_TENSOR_MAP_SWIZZLE_NONE,
             CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  check(status == CUDA_SUCCESS, "cuTensorMapEncodeTiled: error ", static_cast<int>(status), " for ", rows, " rows of ",
        width, " elements, ", pitch, " bytes apart, at an address that is ", reinterpret_cast<uintptr_t>(data) % 16,
        " modulo 16");
  return map;
}

}  // namespace nvfp4::cuda::sm120
