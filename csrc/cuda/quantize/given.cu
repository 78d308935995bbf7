// Quantisation of x by a global scale that is known, and the amax of a tensor.
#include "cuda/quantize/given.cuh"
#include "cuda/quantize/source.cuh"

namespace nvfp4::cuda {
namespace {

constexpr int kThreads = 256;

template <typename T, bool kAligned>
__global__ void __launch_bounds__(kThreads)
    tensor_amax(const T* x, int64_t row_stride, int64_t rows, Divider by_groups, uint32_t* amax) {
  const int64_t blocks = rows * by_groups.divisor;
  uint32_t largest = 0;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < blocks; i += int64_t{gridDim.x} * kThreads) {
    const auto row = by_groups.divide(static_cast<uint32_t>(i));
    const int64_t group = i - int64_t{row} * by_groups.divisor;
    Block<T> block;
    block.template load<kAligned>(x + row * row_stride + group * kGroupSize);
    largest = max(largest, block.finite_amax_bits());
  }
  largest = __reduce_max_sync(0xFFFFFFFFu, largest);
  // A maximum does not depend on who finds it first.
  if (threadIdx.x % 32 == 0 && largest != 0) atomicMax(amax, largest);
}

}  // namespace

void launch_quantize_given(const QuantizeProblem& problem, QuantizeArguments p, cudaStream_t stream) {
  with_element(problem, [&](auto element, auto aligned) {
    launch_given(Plain<decltype(element), decltype(aligned)::value>(problem), ToCodes(), p, stream);
  });
}

void launch_tensor_amax(const QuantizeProblem& problem, uint32_t* amax, cudaStream_t stream) {
  const int64_t groups = problem.cols / kGroupSize;
  constexpr int64_t kMostBlocks = 132 * 8 * 2;  // enough for any GPU; each loops
  constexpr int64_t kRowsAtOnce = int64_t{1} << 30;
  const int64_t step = std::max<int64_t>(kRowsAtOnce / groups, 1);
  with_element(problem, [&](auto element, auto aligned) {
    using T = decltype(element);
    for (int64_t first = 0; first < problem.rows; first += step) {
      const int64_t rows = std::min(step, problem.rows - first);
      const auto grid = static_cast<unsigned>(std::min(ceil_div(rows * groups, kThreads), kMostBlocks));
      tensor_amax<T, decltype(aligned)::value>
          <<<grid, kThreads, 0, stream>>>(static_cast<const T*>(problem.x) + first * problem.row_stride,
                                          problem.row_stride, rows, Divider(static_cast<uint32_t>(groups)), amax);
    }
  });
}

}  // namespace nvfp4::cuda
