// Quantisation on the GPU: checks, the order of the launches, and the padding of swizzled scales.
#include "cuda/quantize/arguments.cuh"

namespace nvfp4::cuda {
namespace {

// 2^30 blocks a launch, so that 32-bit indices have room to spare.
constexpr int64_t kBlocksAtOnce = int64_t{1} << 30;
constexpr int kThreads = 256;

bool computes_tensor(const QuantizeProblem& p) { return p.mode == GlobalScale::kComputeTensor; }

void check_problem(const QuantizeProblem& p, const void* workspace) {
  check(p.rows >= 0, "quantize: got ", p.rows, " rows, wanted 0 or more");
  check(p.cols >= 0 && p.cols % kGroupSize == 0, "quantize: got ", p.cols, " columns, wanted a multiple of 16");
  check(p.scheme == Scheme::kNvfp4 || p.mode == GlobalScale::kGivenTensor || computes_tensor(p),
        "quantize: the scheme compressed-tensors has one global scale a tensor");
  if (p.rows == 0) return;
  check(p.global_scale != nullptr, "quantize: the global scale is null");
  check(!computes_tensor(p) || workspace != nullptr, "quantize: the workspace is null, wanted ", kWorkspaceBytes,
        " bytes");
  if (p.cols == 0) return;
  check(p.x != nullptr && p.packed != nullptr && p.scale != nullptr, "quantize: a pointer is null");
  check(p.packed_pitch == 0 || (p.packed_pitch % 8 == 0 && p.packed_pitch >= p.cols / 2), "quantize: got ",
        p.packed_pitch, " bytes from row to row of codes, wanted a multiple of 8 that holds ", p.cols / 2);
  for (int i = 0; i < 2; ++i) {
    check(p.gemm.alpha[i] == nullptr || p.gemm.weight_global_scale[i] != nullptr,
          "quantize: alpha is wanted, but the weight's global scale is null");
    check(p.gemm.next_alpha == nullptr || p.gemm.next_global_scale[i] != nullptr,
          "quantize: the next product's alpha is wanted, but a global scale of it is null");
  }
  check(p.cols / kGroupSize <= kBlocksAtOnce / 128, "quantize: got ", p.cols, " columns, wanted at most 2^27");
}

__global__ void set_global_scale(float* global_scale, int64_t count, float value) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) global_scale[i] = value;
}

}  // namespace

bool is_aligned(const QuantizeProblem& p) {
  const int64_t bytes = p.dtype == DType::kFloat32 ? 4 : 2;
  return reinterpret_cast<uintptr_t>(p.x) % 16 == 0 && (p.rows <= 1 || p.row_stride * bytes % 16 == 0);
}

void quantize(const QuantizeProblem& problem, void* workspace, Stream stream) {
  check_problem(problem, workspace);
  const cudaStream_t native_stream = native(stream);
  const int64_t groups = problem.cols / kGroupSize;
  const bool per_row = problem.mode == GlobalScale::kGivenRow || problem.mode == GlobalScale::kComputeRow;
  const bool computed = computes_tensor(problem) || problem.mode == GlobalScale::kComputeRow;
  if (problem.rows == 0 || groups == 0) {
    // There is nothing to measure: amax 0 gives a global scale of 1.
    const int64_t count = per_row ? problem.rows : 1;
    if (!computed || count == 0 || problem.global_scale == nullptr) return;
    set_global_scale<<<static_cast<unsigned>(ceil_div(count, kThreads)), kThreads, 0, native_stream>>>(
        problem.global_scale, count, 1.0f);
    return check_cuda(cudaGetLastError(), "quantize");
  }
  QuantizeArguments p{};
  p.row_stride = problem.row_stride;
  p.groups = groups;
  p.by_groups = Divider(static_cast<uint32_t>(groups));
  p.scheme = problem.scheme;
  p.atom_rows = problem.scale_layout == ScaleLayout::kSwizzled128x4  ? 128
                : problem.scale_layout == ScaleLayout::kSwizzled32x4 ? 32
                                                                     : 0;
  const int64_t pitch = problem.packed_pitch != 0 ? problem.packed_pitch : problem.cols / 2;
  p.packed_stride = pitch / (kGroupSize / 2);
  p.per_row = per_row;
  // One row is measured and encoded in one launch, whoever its global scale belongs to.
  const bool rows_kernel = problem.mode == GlobalScale::kComputeRow || (computes_tensor(problem) && problem.rows == 1);
  if (computes_tensor(problem) && !rows_kernel) {
    auto* amax = static_cast<uint32_t*>(workspace);
    check_cuda(cudaMemsetAsync(amax, 0, kWorkspaceBytes, native_stream), "quantize: clearing the workspace");
    launch_tensor_amax(problem, amax, native_stream);
    p.amax = amax;
  }
  // Launches begin at multiples of 128 rows, so that each has swizzled atoms of its own.
  const int64_t step = std::max<int64_t>(kBlocksAtOnce / groups / 128, 1) * 128;
  const int64_t bytes = problem.dtype == DType::kFloat32 ? 4 : 2;
  for (int64_t first = 0; first < problem.rows; first += step) {
    p.rows = std::min(step, problem.rows - first);
    p.x = static_cast<const uint8_t*>(problem.x) + first * problem.row_stride * bytes;
    p.global_scale = problem.global_scale + (per_row ? first : 0);
    p.packed = problem.packed + first * pitch;
    p.scale = problem.scale + (p.atom_rows != 0 ? swizzled_bytes(first, groups, p.atom_rows) : first * groups);
    p.gemm = problem.gemm;
    if (first != 0) p.gemm.zero_count = 0;
    for (float*& alpha : p.gemm.alpha) {
      if (alpha != nullptr && per_row) alpha += first;
    }
    if (rows_kernel) {
      launch_quantize_rows(problem, p, native_stream);
    } else {
      launch_quantize_given(problem, p, native_stream);
    }
  }
  check_cuda(cudaGetLastError(), "quantize");
}

}  // namespace nvfp4::cuda
