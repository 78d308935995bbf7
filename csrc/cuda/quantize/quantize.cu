// Quantisation on the GPU: checks, the order of the launches, and the padding of swizzled scales.
#include "cuda/quantize/arguments.cuh"

namespace nvfp4::cuda {
namespace {

// 2^30 blocks a launch, padding among them, so that 32-bit indices have room to spare.
constexpr int64_t kBlocksAtOnce = int64_t{1} << 30;
constexpr int kThreads = 256;

int64_t element_bytes(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

bool computes_tensor(const QuantizeProblem& p) { return p.mode == GlobalScale::kComputeTensor; }

bool is_computed(const QuantizeProblem& p) { return computes_tensor(p) || p.mode == GlobalScale::kComputeRow; }

bool is_gated(const QuantizeProblem& p) { return p.activation != Activation::kNone; }

bool is_normed(const QuantizeProblem& p) { return p.norm.weight != nullptr; }

// Of a pointer, and of the distance from row to row where it is not zero.
void check_aligned(const char* what, const void* pointer, int64_t stride_bytes = 0) {
  check(reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && stride_bytes % 16 == 0, "quantize: ", what,
        ": wanted rows that begin at multiples of 16 bytes; copy it to aligned memory first");
}

// Of what is not just x to codes.
void check_fused(const QuantizeProblem& p) {
  const int64_t bytes = element_bytes(p.dtype);
  check(is_gated(p) + is_normed(p) + (p.dequantized != nullptr) <= 1,
        "quantize: wanted one of an activation, a norm and values in the place of codes");
  check(p.dequantized == nullptr || p.scale_layout == ScaleLayout::kPlain,
        "quantize: values in the place of codes have no scales to swizzle");
  if (is_gated(p) || is_normed(p)) {
    check(p.scheme == Scheme::kNvfp4, "quantize: an activation or a norm is quantised by the scheme nvfp4 only");
    check_aligned("values", p.values);
  }
  if (is_gated(p) || is_normed(p) || p.dequantized != nullptr) {
    check_aligned("x", p.x, p.rows > 1 ? p.row_stride * bytes : 0);
    check_aligned("dequantized", p.dequantized);
  }
  if (!is_normed(p)) return;
  check(p.norm.eps >= 1e-30 && p.norm.eps <= 1e30, "quantize: norm: got eps = ", p.norm.eps,
        ", wanted a number from 1e-30 to 1e30");
  check_aligned("norm: weight", p.norm.weight);
  check_aligned("norm: residual", p.norm.residual, p.rows > 1 ? p.norm.residual_stride * bytes : 0);
  check_aligned("norm: sum", p.norm.sum);
  check(p.norm.sum == nullptr || (p.norm.sum != p.x && p.norm.sum != p.norm.residual),
        "quantize: norm: the sum is written where x or the residual is read; give it memory of its own");
}

// Some rows of a problem.
QuantizeProblem part_of(const QuantizeProblem& p, int64_t first, int64_t rows) {
  const int64_t bytes = element_bytes(p.dtype);
  const auto forward = [first](auto*& pointer, int64_t row_bytes) {
    if (pointer == nullptr) return;
    using Pointer = std::remove_reference_t<decltype(pointer)>;
    pointer = reinterpret_cast<Pointer>(reinterpret_cast<uintptr_t>(pointer) + first * row_bytes);
  };
  QuantizeProblem part = p;
  part.rows = rows;
  forward(part.x, p.row_stride * bytes);
  forward(part.norm.residual, p.norm.residual_stride * bytes);
  forward(part.norm.sum, p.cols * bytes);
  forward(part.values, p.cols * bytes);
  forward(part.dequantized, p.cols * element_bytes(p.dequantized_dtype));
  return part;
}

void check_problem(const QuantizeProblem& p, const void* workspace) {
  check(p.rows >= 0, "quantize: got ", p.rows, " rows, wanted 0 or more");
  check(p.cols >= 0 && p.cols % kGroupSize == 0, "quantize: got ", p.cols, " columns, wanted a multiple of 16");
  check(p.scheme == Scheme::kNvfp4 || p.mode == GlobalScale::kGivenTensor || computes_tensor(p),
        "quantize: the scheme compressed-tensors has one global scale a tensor");
  check(!computes_tensor(p) || !(is_gated(p) || is_normed(p)),
        "quantize: an activation or a norm has no global scale computed per tensor; give one, or compute one a row");
  if (p.rows == 0) return;
  check(p.global_scale != nullptr || (p.dequantized != nullptr && is_computed(p)),
        "quantize: the global scale is null");
  check(!computes_tensor(p) || workspace != nullptr, "quantize: the workspace is null, wanted ", kWorkspaceBytes,
        " bytes");
  if (p.cols == 0) return;
  check(p.x != nullptr && (p.dequantized != nullptr || (p.packed != nullptr && p.scale != nullptr)),
        "quantize: a pointer is null");
  check(p.packed_pitch == 0 || (p.packed_pitch % 8 == 0 && p.packed_pitch >= p.cols / 2), "quantize: got ",
        p.packed_pitch, " bytes from row to row of codes, wanted a multiple of 8 that holds ", p.cols / 2);
  for (int i = 0; i < 2; ++i) {
    check(p.gemm.alpha[i] == nullptr || p.gemm.weight_global_scale[i] != nullptr,
          "quantize: alpha is wanted, but the weight's global scale is null");
    check(p.gemm.next_alpha == nullptr || p.gemm.next_global_scale[i] != nullptr,
          "quantize: the next product's alpha is wanted, but a global scale of it is null");
  }
  check(p.cols / kGroupSize <= kBlocksAtOnce / 128, "quantize: got ", p.cols, " columns, wanted at most 2^27");
  check_fused(p);
}

__global__ void set_global_scale(float* global_scale, int64_t count, float value) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) global_scale[i] = value;
}

}  // namespace

bool is_aligned(const QuantizeProblem& p) {
  return reinterpret_cast<uintptr_t>(p.x) % 16 == 0 && (p.rows <= 1 || p.row_stride * element_bytes(p.dtype) % 16 == 0);
}

void quantize(const QuantizeProblem& problem, void* workspace, Stream stream) {
  check_problem(problem, workspace);
  const cudaStream_t native_stream = native(stream);
  const int64_t groups = problem.cols / kGroupSize;
  const bool per_row = problem.mode == GlobalScale::kGivenRow || problem.mode == GlobalScale::kComputeRow;
  if (problem.rows == 0 || groups == 0) {
    // There is nothing to measure: amax 0 gives a global scale of 1.
    const int64_t count = per_row ? problem.rows : 1;
    if (!is_computed(problem) || count == 0 || problem.global_scale == nullptr) return;
    set_global_scale<<<static_cast<unsigned>(ceil_div(count, kThreads)), kThreads, 0, native_stream>>>(
        problem.global_scale, count, 1.0f);
    return check_cuda(cudaGetLastError(), "quantize");
  }
  QuantizeArguments p{};
  p.groups = groups;
  p.by_groups = Divider(static_cast<uint32_t>(groups));
  p.scheme = problem.scheme;
  const int atom_rows = problem.scale_layout == ScaleLayout::kSwizzled128x4  ? 128
                        : problem.scale_layout == ScaleLayout::kSwizzled32x4 ? 32
                                                                             : 0;
  p.atom_shift = atom_rows == 128 ? 7 : atom_rows == 32 ? 5 : 0;
  p.row_atoms = static_cast<uint32_t>(ceil_div(groups, 4));
  const int64_t pitch = problem.packed_pitch != 0 ? problem.packed_pitch : problem.cols / 2;
  p.packed_stride = pitch / (kGroupSize / 2);
  p.per_row = per_row;
  // One row is measured and encoded in one launch, whoever its global scale belongs to.
  p.computed = is_computed(problem) && (per_row || problem.rows == 1);
  if (computes_tensor(problem) && !p.computed) {
    auto* amax = static_cast<uint32_t*>(workspace);
    check_cuda(cudaMemsetAsync(amax, 0, kWorkspaceBytes, native_stream), "quantize: clearing the workspace");
    launch_tensor_amax(problem, amax, native_stream);
    p.amax = amax;
  }
  // Launches begin at multiples of 128 rows, so that each has swizzled atoms of its own.
  const int64_t step = std::max<int64_t>(kBlocksAtOnce / round_up(groups, 4) / 128, 1) * 128;
  for (int64_t first = 0; first < problem.rows; first += step) {
    const QuantizeProblem part = part_of(problem, first, std::min(step, problem.rows - first));
    p.rows = part.rows;
    p.global_scale = problem.global_scale == nullptr ? nullptr : problem.global_scale + (per_row ? first : 0);
    p.packed = problem.packed + first * pitch;
    p.scale = problem.scale + (atom_rows != 0 ? swizzled_bytes(first, groups, atom_rows) : first * groups);
    p.gemm = problem.gemm;
    if (first != 0) p.gemm.zero_count = 0;
    for (float*& alpha : p.gemm.alpha) {
      if (alpha != nullptr && per_row) alpha += first;
    }
    const auto launch = is_normed(part)               ? launch_quantize_norm
                        : is_gated(part)              ? launch_quantize_gated
                        : part.dequantized != nullptr ? launch_quantize_dequantize
                        : p.computed                  ? launch_quantize_rows
                                                      : launch_quantize_given;
    launch(part, p, native_stream);
  }
  check_cuda(cudaGetLastError(), "quantize");
}

}  // namespace nvfp4::cuda
