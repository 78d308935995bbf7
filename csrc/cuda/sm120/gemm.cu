// The matrix product of SM120 on the host: checks, tensor maps, the schedule, the launch.
#include <algorithm>

#include "cuda/launch.cuh"
#include "cuda/sm120/instances.h"
#include "cuda/sm120/peak.h"
#include "cuda/sm120/tensor_map.h"
#include "dispatch/sm120_choice.h"
#include "nvfp4/cuda.h"

namespace nvfp4::cuda {
namespace {

using sm120::Arguments;
using sm120::Instance;
using sm120::Schedule;

// In the order of dispatch::sm120_shapes().
const Instance& instance(int shape) {
#if defined(NVFP4_WITH_SM120)
  static const Instance instances[] = {sm120::streaming8(),     sm120::streaming16(),     sm120::streaming32(),
                                       sm120::streaming64(),    sm120::tile128x128x128(), sm120::tile128x128x256(),
                                       sm120::tile256x128x128()};
  // The choice of a kernel reasons with the numbers of its own table: they are the kernels'.
  const Instance& found = instances[shape];
  const dispatch::Sm120Shape& said = dispatch::sm120_shapes()[static_cast<size_t>(shape)];
  check(found.tokens == said.tokens && found.units == said.units && found.stages == said.stages &&
            found.warps == said.warps,
        "gemm: dispatch/sm120_choice.cpp says other numbers of ", said.name, " than its kernel");
  return found;
#else
  throw Error(message("gemm: shape ", shape, " is for the SM120 family, which this library was not built for"));
#endif
}

void check_pointer(const char* name, const void* pointer, uintptr_t alignment) {
  check(pointer != nullptr, "gemm: ", name, " is null");
  check(reinterpret_cast<uintptr_t>(pointer) % alignment == 0, "gemm: ", name, " is at an address that is ",
        reinterpret_cast<uintptr_t>(pointer) % alignment, " modulo ", alignment, ", wanted a multiple");
}

void check_problem(const GpuGemmProblem& p) {
  check_pointer("a_packed", p.a_packed, 16);
  check_pointer("a_scale", p.a_scale, 16);
  check_pointer("b_units", p.b_units, 16);
  check_pointer("alpha", p.alpha, 4);
  if (p.up_alpha != nullptr) check_pointer("up_alpha", p.up_alpha, 4);
  if (p.bias != nullptr) check_pointer("bias", p.bias, p.bias_dtype == DType::kFloat32 ? 4 : 2);
  if (p.residual != nullptr) check_pointer("residual", p.residual, 16);
  check(p.a_pitch % 16 == 0 && p.a_pitch >= p.k / 2, "gemm: got ", p.a_pitch, " bytes from row to row of a_packed, ",
        "wanted a multiple of 16 that holds ", p.k / 2);
  const bool gated = p.activation != Activation::kNone, narrow = p.out_dtype != DType::kFloat32;
  check(!gated || (narrow && p.n % 16 == 0),
        "gemm: an activation wants a 16-bit output and n a multiple of 16; got n = ", p.n);
  if (p.out_packed == nullptr) {
    check_pointer("out", p.out, 16);
    return;
  }
  const int64_t outputs = gated ? p.n / 2 : p.n;
  check(narrow && outputs % kGroupSize == 0 && p.residual == nullptr,
        "gemm: NVFP4 output wants a 16-bit out_dtype, outputs a multiple of 16 and no residual; got ", outputs,
        " outputs");
  check_pointer("out_packed", p.out_packed, 8);
  check_pointer("out_scale", p.out_scale, 4);
  check_pointer("out_global_scale", p.out_global_scale, 4);
  check(p.out_pitch % 8 == 0 && p.out_pitch >= outputs / 2, "gemm: got ", p.out_pitch,
        " bytes from row to row of out_packed, wanted a multiple of 8 that holds ", outputs / 2);
}

Schedule schedule_of(const dispatch::Sm120Plan& plan, const Instance& shape, const GpuGemmProblem& p) {
  const auto divider = [](int64_t n) { return Divider(static_cast<uint32_t>(std::max<int64_t>(n, 1))); };
  Schedule s{};
  s.panels = static_cast<int>(ceil_div(p.n, kUnitRows));
  s.token_tiles = static_cast<int>(ceil_div(p.m, shape.tokens));
  s.stages = static_cast<int>(ceil_div(ceil_div(p.k, kUnitCols), shape.units));
  s.whole = plan.whole;
  s.group = std::min(plan.group, s.token_tiles);
  s.by_stages = divider(s.stages);
  s.by_group_tiles = divider(int64_t{s.group} * s.panels);
  s.by_group = divider(s.group);
  s.by_last_group = divider(s.token_tiles % s.group == 0 ? s.group : s.token_tiles % s.group);
  const int total = (s.panels * s.token_tiles - s.whole) * s.stages;
  s.piece = total / plan.blocks;
  s.longer = total % plan.blocks;
  s.by_longer_piece = divider(s.piece + 1);
  s.by_piece = divider(s.piece);
  return s;
}

}  // namespace

void gemm(const GpuGemmProblem& problem, const dispatch::Sm120Plan& plan, void* partials, uint32_t* arrivals,
          bool programmatic, Stream stream) {
  if (problem.m == 0 || problem.n == 0) return;
  const std::string refusal = dispatch::sm120_refusal(plan, problem.m, problem.n, problem.k);
  check(refusal.empty(), "gemm: ", refusal);
  check_problem(problem);
  const bool shared_tiles = dispatch::sm120_arrivals(plan, problem.m, problem.n, problem.k) > 0;
  check(!shared_tiles || (partials != nullptr && arrivals != nullptr), "gemm: this plan wants partials and arrivals");
  const Instance& shape = instance(plan.shape);
  const int64_t atoms = ceil_div(problem.m, 32), words = ceil_div(problem.k, 64) * 32;
  const sm120::TokenMaps maps{sm120::matrix_map(problem.a_packed, 1, problem.k / 2, problem.m, problem.a_pitch, 64,
                                                shape.tokens, sm120::Swizzle::k64Bytes),
                              sm120::matrix_map(problem.a_scale, 4, words, atoms, words * 4, 64,
                                                std::max(shape.tokens / 32, 1), sm120::Swizzle::kNone)};
  Arguments a{};
  a.schedule = schedule_of(plan, shape, problem);
  a.m = static_cast<int>(problem.m), a.n = static_cast<int>(problem.n);
  a.weights = problem.b_units;
  a.alpha = problem.alpha, a.up_alpha = problem.up_alpha, a.alpha_per_token = problem.alpha_per_token;
  a.bias = problem.bias, a.bias_dtype = problem.bias_dtype;
  a.activation = problem.activation;
  a.out = problem.out, a.out_dtype = problem.out_dtype, a.residual = problem.residual;
  a.out_packed = problem.out_packed, a.out_pitch = problem.out_pitch;
  a.out_scale = problem.out_scale, a.out_global_scale = problem.out_global_scale;
  a.partials = static_cast<float*>(partials), a.arrivals = arrivals;
  shape.launch(maps, a, plan.blocks, programmatic, native(stream));
}

int64_t mma_loop(int steps, int blocks, const uint32_t* operands, float* out, Stream stream) {
  instance(0);  // throws where the instances are missing
#if defined(NVFP4_WITH_SM120)
  return sm120::launch_mma_loop(steps, blocks, operands, out, native(stream));
#endif
}

int64_t read_loop(const uint8_t* data, int64_t bytes, int blocks, uint32_t* out, Stream stream) {
  instance(0);
#if defined(NVFP4_WITH_SM120)
  return sm120::launch_read_loop(data, bytes, blocks, out, native(stream));
#endif
}

void instruction(const InstructionOperands& operands, int64_t tiles, int thread_id_a, int thread_id_b, Stream stream) {
  check((thread_id_a == 0 || thread_id_a == 1) && thread_id_b >= 0 && thread_id_b < 4, "instruction: got selectors ",
        thread_id_a, " and ", thread_id_b, ", wanted 0 to 1 and 0 to 3");
  check(tiles >= 0 && tiles < int64_t{1} << 30, "instruction: got ", tiles, " tiles");
  instance(0);
#if defined(NVFP4_WITH_SM120)
  sm120::launch_instruction(operands, tiles, thread_id_a, thread_id_b, native(stream));
#endif
}

}  // namespace nvfp4::cuda
