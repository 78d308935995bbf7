// A gated activation and quantisation in one kernel: act(gate) * up, rounded to the type of x, then codes.
#include "cuda/activation.cuh"
#include "cuda/quantize/given.cuh"
#include "cuda/quantize/rows.cuh"
#include "cuda/quantize/source.cuh"

namespace nvfp4::cuda {
namespace {

// The activation is computed in float32 for 16-bit values and in float64 for float32, and rounded once.
template <typename T>
struct Gated : Direct {
  using Value = T;
  static constexpr bool kLight = false;

  const T* x;
  T* values;
  int64_t row_stride, cols;
  int64_t up;    // from a gate to its up, in elements
  int64_t next;  // from eight columns of gate to the next eight
  Activation activation;

  explicit Gated(const QuantizeProblem& p)
      : x(static_cast<const T*>(p.x)),
        values(static_cast<T*>(p.values)),
        row_stride(p.row_stride),
        cols(p.cols),
        up(p.interleaved ? 8 : p.cols),
        next(p.interleaved ? 16 : 8),
        activation(p.activation) {}

  bool writes() const { return values != nullptr; }

  __device__ __forceinline__ void load(Block<T>& block, uint32_t row, uint32_t group) const {
    const T* first = x + row * row_stride + 2 * int64_t{group} * next;
    switch (activation) {
      case Activation::kGeluTanh:
        load_as<Activation::kGeluTanh>(block, first);
        break;
      case Activation::kGeluErf:
        load_as<Activation::kGeluErf>(block, first);
        break;
      default:
        load_as<Activation::kSilu>(block, first);
        break;
    }
    if (values != nullptr) write_block(values + row * cols + int64_t{group} * kGroupSize, block);
  }

 private:
  // Float64 arithmetic is long, so its loop stays one: registers cannot be indexed, and the words move past.
  template <Activation kActivation>
  __device__ __forceinline__ void load_as(Block<T>& block, const T* first) const {
    constexpr int kWords = static_cast<int>(sizeof(T));
#pragma unroll(sizeof(T) == 2 ? 2 : 1)
    for (int chunk = 0; chunk < kWords; ++chunk) {
      const int column = chunk * kChunk<T>;
      const T* gates = first + column / 8 * next + column % 8;
      float gate[kChunk<T>], other[kChunk<T>];
      unpack(__ldg(reinterpret_cast<const uint4*>(gates)), gate, T());
      unpack(__ldg(reinterpret_cast<const uint4*>(gates + up)), other, T());
#pragma unroll
      for (int i = 0; i < kChunk<T>; ++i) {
        gate[i] =
            static_cast<float>(activate(static_cast<Exact<T>>(gate[i]), static_cast<Exact<T>>(other[i]), kActivation));
      }
#pragma unroll
      for (int i = 0; i + 1 < kWords; ++i) block.words[i] = block.words[i + 1];
      block.words[kWords - 1] = pack(gate, T());
    }
  }
};

}  // namespace

void launch_quantize_gated(const QuantizeProblem& problem, QuantizeArguments p, cudaStream_t stream) {
  with_dtype(problem.dtype, [&](auto element) {
    const Gated<decltype(element)> source(problem);
    if (!p.computed) {
      launch_given(source, ToCodes(), p, stream);
    } else {
      launch_rows(source, ToCodes(), p, stream);
    }
  });
}

}  // namespace nvfp4::cuda
