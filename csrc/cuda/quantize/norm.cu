// RMS norm and quantisation in one kernel: x, or x + residual, is read once.
#include "cuda/ptx/approximate.cuh"
#include "cuda/ptx/mma_half.cuh"
#include "cuda/quantize/rows.cuh"
#include "cuda/quantize/source.cuh"

namespace nvfp4::cuda {
namespace {

__device__ __forceinline__ float inverse_root(float x) { return ptx::inverse_root_approximate(x); }
// To some fifty bits.
__device__ __forceinline__ double inverse_root(double x) {
  double r = ptx::inverse_root_approximate(x);
  if (!(x < __longlong_as_double(0x7FF0000000000000))) return r;  // 0 of infinity, NaN of NaN
  r = fma(0.5 * r, fma(-x * r, r, 1.0), r);
  return fma(0.5 * r, fma(-x * r, r, 1.0), r);
}

// The sum of a block's squares in float64: of even columns and of odd ones, each in the order of columns.
struct WideSquares {
  double sums[2] = {};

  template <typename T>
  __device__ __forceinline__ explicit WideSquares(const Block<T>& block) {
#pragma unroll
    for (int i = 0; i < kGroupSize; ++i) {
      const auto value = static_cast<double>(block.value(i));
      sums[i % 2] = fma(value, value, sums[i % 2]);
    }
  }
  __device__ __forceinline__ double sum() const { return sums[0] + sums[1]; }
};

// Of 16-bit numbers by the tensor core, which takes them as they lie. A matrix times its transpose has the sums of its
// rows' squares on the diagonal, and four lanes have a row: a lane of each four gets the sum of their blocks.
template <typename T>
struct TensorSquares {
  float sums[4] = {};

  __device__ __forceinline__ explicit TensorSquares(const Block<T>& block) {
#pragma unroll
    for (int i = 0; i < kGroupSize / 2; i += 2) {
      const uint32_t b[2] = {block.word(i), block.word(i + 1)};
      ptx::mma_m16n8k16(sums, {b[0], 0, b[1], 0}, b, T());
    }
  }
  __device__ __forceinline__ float sum() const {
    const uint32_t row = threadIdx.x / 4 % 8, pair = threadIdx.x % 4;
    return row / 2 != pair ? 0.0f : row % 2 == 0 ? sums[0] : sums[1];
  }
};

template <typename T>
using Squares = std::conditional_t<sizeof(T) == 2, TensorSquares<T>, WideSquares>;

// y = x * factor * weight with factor = 1 / sqrt(mean(x^2) + eps), computed in float32 for 16-bit values and in float64
// for float32, and rounded once.
template <typename T>
struct Norm {
  using Value = T;
  using Factor = Exact<T>;
  static constexpr bool kNormalises = true;
  static constexpr bool kLight = false;

  const T* x;
  const T* residual;
  const T* weight;
  T* sum;
  T* values;
  int64_t row_stride, residual_stride, cols;
  Factor eps, inverse_cols;
  double wide_eps, wide_inverse_cols;
  Factor offset;  // of the weight: 1, or -0, which leaves even a zero its sign

  explicit Norm(const QuantizeProblem& p)
      : x(static_cast<const T*>(p.x)),
        residual(static_cast<const T*>(p.norm.residual)),
        weight(static_cast<const T*>(p.norm.weight)),
        sum(static_cast<T*>(p.norm.sum)),
        values(static_cast<T*>(p.values)),
        row_stride(p.row_stride),
        residual_stride(p.norm.residual_stride),
        cols(p.cols),
        eps(static_cast<Factor>(p.norm.eps)),
        inverse_cols(static_cast<Factor>(1.0 / static_cast<double>(p.cols))),
        wide_eps(p.norm.eps),
        wide_inverse_cols(1.0 / static_cast<double>(p.cols)),
        offset(p.norm.unit_offset ? Factor(1) : Factor(-0.0)) {}

  bool writes() const { return sum != nullptr || values != nullptr; }

  __device__ __forceinline__ void load(Block<T>& block, uint32_t row, uint32_t group) const {
    block.template load<true>(x + row * row_stride + int64_t{group} * kGroupSize);
    if (residual == nullptr) return;
    Block<T> other;
    other.template load<true>(residual + row * residual_stride + int64_t{group} * kGroupSize);
#pragma unroll
    for (int chunk = 0; chunk < static_cast<int>(sizeof(T)); ++chunk) {
      float a[kChunk<T>], b[kChunk<T>];
      unpack(block.words[chunk], a, T());
      unpack(other.words[chunk], b, T());
#pragma unroll
      for (int i = 0; i < kChunk<T>; ++i) a[i] += b[i];
      block.words[chunk] = pack(a, T());
    }
    if (sum != nullptr) write_block(sum + row * cols + int64_t{group} * kGroupSize, block);
  }

  // The factor of a row. `pass(load, add)` calls add(block) for this thread's blocks, in order and in all threads
  // alike.
  template <typename Team, typename Pass>
  __device__ __forceinline__ Factor factor(const Team& team, Pass pass) const {
    Factor squares = 0;
    pass(true, [&](const Block<T>& block) { squares += Squares<T>(block).sum(); });
    const Factor square = fma(team.sum(squares), inverse_cols, eps);
    if constexpr (DTypeOf<T>::value == DType::kBFloat16) {
      // The squares of large bfloat16 numbers are beyond float32. The whole team comes here or nobody does.
      if (!(square < __uint_as_float(kInfinityBits))) {
        double wide = 0;
        pass(false, [&](const Block<T>& block) { wide += WideSquares(block).sum(); });
        return static_cast<float>(inverse_root(fma(team.sum(wide), wide_inverse_cols, wide_eps)));
      }
    }
    return inverse_root(square);
  }

  __device__ __forceinline__ void finish(Block<T>& block, Factor factor, uint32_t row, uint32_t group) const {
    // Every row's, so worth a place in the L1.
    const auto* weights = reinterpret_cast<const uint4*>(weight + int64_t{group} * kGroupSize);
#pragma unroll
    for (int chunk = 0; chunk < static_cast<int>(sizeof(T)); ++chunk) {
      float a[kChunk<T>], w[kChunk<T>];
      unpack(block.words[chunk], a, T());
      unpack(__ldg(weights + chunk), w, T());
#pragma unroll
      for (int i = 0; i < kChunk<T>; ++i) {
        a[i] = static_cast<float>(static_cast<Factor>(a[i]) * factor * (static_cast<Factor>(w[i]) + offset));
      }
      block.words[chunk] = pack(a, T());
    }
    if (values != nullptr) write_block(values + row * cols + int64_t{group} * kGroupSize, block);
  }
};

}  // namespace

void launch_quantize_norm(const QuantizeProblem& problem, QuantizeArguments p, cudaStream_t stream) {
  with_dtype(problem.dtype, [&](auto element) {
    const Norm<decltype(element)> source(problem);
    launch_rows(source, ToCodes(), p, stream);
  });
}

}  // namespace nvfp4::cuda
