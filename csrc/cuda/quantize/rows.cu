// Quantisation of x with a global scale a row.
#include "cuda/quantize/rows.cuh"
#include "cuda/quantize/source.cuh"

namespace nvfp4::cuda {

void launch_quantize_rows(const QuantizeProblem& problem, QuantizeArguments p, cudaStream_t stream) {
  with_element(problem, [&](auto element, auto aligned) {
    const Plain<decltype(element), decltype(aligned)::value> source(problem);
    if (p.groups <= kWarp) {
      launch_rows<RowShape<kWarp, 1>>(source, ToCodes(), p, stream);
    } else {
      launch_rows(source, ToCodes(), p, stream);
    }
  });
}

}  // namespace nvfp4::cuda
