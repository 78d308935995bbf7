// Values as NVFP4 would hold them, without codes in memory.
#include "cuda/quantize/given.cuh"
#include "cuda/quantize/rows.cuh"
#include "cuda/quantize/source.cuh"

namespace nvfp4::cuda {
namespace {

struct ToValues {
  static constexpr bool kLight = false;

  void* out;
  DType dtype;

  template <typename T>
  __device__ __forceinline__ void store(const QuantizeArguments& p, const Block<T>& block, uint32_t amax_bits,
                                        float global_scale, const Place& at) const {
    BlockScale scale;
    const uint2 codes = encode(block, amax_bits, global_scale, p.scheme, scale);
    const int64_t index = at.row * p.by_groups.divisor + at.group;
    switch (dtype) {
      case DType::kFloat32:
        return write_decoded(static_cast<float*>(out) + index * kGroupSize, codes, scale.step);
      case DType::kFloat16:
        return write_decoded(static_cast<__half*>(out) + index * kGroupSize, codes, scale.step);
      case DType::kBFloat16:
        return write_decoded(static_cast<__nv_bfloat16*>(out) + index * kGroupSize, codes, scale.step);
    }
  }
};

}  // namespace

void launch_quantize_dequantize(const QuantizeProblem& problem, QuantizeArguments p, cudaStream_t stream) {
  with_dtype(problem.dtype, [&](auto element) {
    const Plain<decltype(element), true> source(problem);
    const ToValues sink{problem.dequantized, problem.dequantized_dtype};
    if (!p.computed) {
      launch_given(source, sink, p, stream);
    } else {
      launch_rows(source, sink, p, stream);
    }
  });
}

}  // namespace nvfp4::cuda
