// Where the values that are quantised come from, a block at a time. A source has
//   Value                        the type of the values;
//   load                         what is read of a block;
//   kNormalises, Factor, factor  whether, and which, number of the whole row is found from what was read;
//   finish                       makes values of what was read;
//   writes                       whether load or finish write to memory;
//   kLight                       whether little is kept in registers beside the values.
#pragma once

#include "cuda/quantize/arguments.cuh"
#include "cuda/quantize/values.cuh"

namespace nvfp4::cuda {

// What is read is what is quantised.
struct Direct {
  static constexpr bool kNormalises = false;
  using Factor = int;

  bool writes() const { return false; }

  template <typename T>
  __device__ __forceinline__ void finish(Block<T>&, Factor, uint32_t, uint32_t) const {}
};

// x itself. kAligned: every row begins at a multiple of 16 bytes.
template <typename T, bool kAligned>
struct Plain : Direct {
  using Value = T;
  static constexpr bool kLight = true;

  const T* x;
  int64_t row_stride;  // in elements

  explicit Plain(const QuantizeProblem& problem)
      : x(static_cast<const T*>(problem.x)), row_stride(problem.row_stride) {}

  __device__ __forceinline__ void load(Block<T>& block, uint32_t row, uint32_t group) const {
    block.template load<kAligned>(x + row * row_stride + int64_t{group} * kGroupSize);
  }
};

}  // namespace nvfp4::cuda
