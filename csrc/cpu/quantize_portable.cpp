// Quantisation in plain C++: the scalar definition, block by block.
#include "quantize.h"
#include "quantize_scalar.h"

namespace nvfp4::cpu {
namespace {

template <DType kDType>
float row_amax(const void* x, int64_t groups, float* amax) {
  uint32_t largest = 0;
  for (int64_t g = 0; g < groups; ++g) {
    amax[g] = block_amax(x, kDType, g);
    largest = float_bits(amax[g]) > largest ? float_bits(amax[g]) : largest;
  }
  return bits_float(largest);
}

template <DType kDType>
void row_codes(const QuantizeRow& row) {
  for (int64_t g = 0; g < row.groups; ++g) {
    row.scale[g] = block_scale(row.amax[g], row.global_scale, row.scheme, kDType);
    block_codes(row.x, kDType, g, row.scale[g], row.global_scale, row.scheme, row.packed + g * (kGroupSize / 2));
  }
}

float amax(const void* x, DType dtype, int64_t groups, float* amax) {
  if (dtype == DType::kBFloat16) return row_amax<DType::kBFloat16>(x, groups, amax);
  if (dtype == DType::kFloat16) return row_amax<DType::kFloat16>(x, groups, amax);
  return row_amax<DType::kFloat32>(x, groups, amax);
}

void codes(DType dtype, const QuantizeRow& row) {
  if (dtype == DType::kBFloat16) return row_codes<DType::kBFloat16>(row);
  if (dtype == DType::kFloat16) return row_codes<DType::kFloat16>(row);
  row_codes<DType::kFloat32>(row);
}

}  // namespace

const QuantizeKernels& quantize_kernels_portable() {
  static constexpr QuantizeKernels kernels{amax, codes};
  return kernels;
}

}  // namespace nvfp4::cpu
