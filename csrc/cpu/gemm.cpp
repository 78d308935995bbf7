// The gemm driver: checks, scratch, blocking and threads, shared by all instruction sets.
//
// Threads take contiguous ranges of 16-row panels, so every output is one thread's work and its order of summation does
// not depend on how many there are.
#include <algorithm>
#include <cmath>

#include "dispatch/gemm_choice.h"
#include "gemm_kernels.h"
#include "gemm_operands.h"
#include "nvfp4/cpu.h"
#include "nvfp4/errors.h"
#include "threads.h"

namespace nvfp4::cpu {
namespace {

// Tokens that go through the weights together: bounds the scratch, a multiple of every block width.
constexpr int64_t kTokensAtOnce = 512;
// Tiles decoded at a time, for W4A4 and W4A16: with a block of tokens they stay in a 32 KiB first-level cache.
constexpr int64_t kChunkTiles = 8;
constexpr int64_t kFloatChunkTiles = 4;
constexpr int64_t kLineBytes = 64;

void check_global_scales(const char* whose, const float* scales, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    check(std::isfinite(scales[i]) && scales[i] > 0, "gemm: ", whose, " global scale: got ", scales[i],
          ", wanted a positive finite number, the encode scale 2688 / amax");
  }
}

void check_problem(const GemmProblem& p) {
  check(p.m >= 0 && p.n >= 0, "gemm: got M = ", p.m, " and N = ", p.n, ", wanted both >= 0");
  check(p.k >= 0 && p.k % kGroupSize == 0, "gemm: got K = ", p.k, ", wanted a multiple of 16, such as ",
        round_up(std::max<int64_t>(p.k, 1), kGroupSize), "; pad the columns with zeros");
  if (p.m == 0 || p.n == 0) return;
  check(p.out != nullptr, "gemm: the output pointer is null");
  check(p.b_global_scale != nullptr, "gemm: the weights' global scale is null");
  check((p.a_packed != nullptr) != (p.a != nullptr) || p.k == 0,
        "gemm: wanted either packed activations (W4A4) or float ones (W4A16), got both or neither");
  check_global_scales("the weights'", p.b_global_scale, p.b_global_scale_per_row ? p.n : 1);
  if (p.a_packed != nullptr) {
    check(p.a_global_scale != nullptr, "gemm: the activations' global scale is null");
    check_global_scales("the activations'", p.a_global_scale, p.a_global_scale_per_row ? p.m : 1);
  }
  if (p.k == 0) return;
  check(p.b_tiles != nullptr, "gemm: the weight tiles are null");
  if (p.a_packed != nullptr) {
    check(p.a_scale != nullptr, "gemm: the activations' block scales are null");
  } else {
    check(p.m == 1 || p.a_row_stride >= p.k, "gemm: got activations with a row stride of ", p.a_row_stride,
          ", wanted at least K = ", p.k);
  }
}

// One call's constants, for up to kTokensAtOnce tokens from `first_token` on. The activations lie in the order of use:
// chunks of tiles, and in each the blocks of tokens one after the other.
struct Pass {
  const GemmProblem& problem;
  const GemmKernels& kernels;
  const FloatGemmKernels& float_kernels;
  dispatch::GemmPath path;
  int64_t first_token;
  int64_t token_count;
  int64_t tile_columns;  // tiles in a panel
  int64_t chunk_tiles;
  uint8_t* blocks;

  bool wide() const { return problem.a_packed == nullptr; }  // W4A16: float activations
  int tokens() const { return wide() ? float_kernels.tokens : kernels.tokens; }
  int width(int64_t token) const { return static_cast<int>(std::min<int64_t>(tokens(), token_count - token)); }
  int64_t tile_bytes() const {  // of one token
    return wide() ? kTileCols * int64_t{sizeof(float)} : kTileGroups * token_group_bytes(1);
  }
  int64_t chunk_size(int64_t tile) const { return std::min(chunk_tiles, tile_columns - tile); }
  uint8_t* block(int64_t first_tile, int64_t token) const {
    return blocks + (first_tile * token_count + chunk_size(first_tile) * token) * tile_bytes();
  }
  float* float_block(int64_t first_tile, int64_t token) const {
    return reinterpret_cast<float*>(block(first_tile, token));
  }
};

void prepare_block(const Pass& pass, int64_t token) {
  const int width = pass.width(token);
  const int64_t first = pass.first_token + token;
  const bool unsigned_codes = pass.path == dispatch::GemmPath::kPanel && pass.kernels.unsigned_in_panel;
  for (int64_t tile = 0; tile < pass.tile_columns; tile += pass.chunk_tiles) {
    const int64_t count = pass.chunk_size(tile);
    if (pass.wide()) {
      widen_tokens(pass.problem, first, width, tile, count, pass.float_block(tile, token));
    } else {
      expand_tokens(pass.problem, first, width, tile, count, unsigned_codes, pass.block(tile, token));
    }
  }
}

void prepare_tokens(const Pass& pass, int threads) {
  if (pass.tile_columns == 0) return;  // K = 0: there is nothing to prepare, and no memory for it.
  const int64_t block_count = ceil_div(pass.token_count, pass.tokens());
  // About ten microseconds of work, at three columns a nanosecond.
  const int64_t grain = std::max<int64_t>(1, 32768 / (pass.problem.k * pass.tokens() + 1));
  parallel_for(block_count, threads, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) prepare_block(pass, i * pass.tokens());
  });
}

void stream_panel(const Pass& pass, const uint8_t* tiles, int64_t first_row, int rows) {
  for (int64_t token = 0; token < pass.token_count; token += pass.tokens()) {
    alignas(64) float sums[kMaxTokens * kTileRows] = {};
    const int width = pass.width(token);
    if (pass.wide()) {
      pass.float_kernels.stream(tiles, pass.tile_columns, pass.float_block(0, token), width, sums);
    } else {
      pass.kernels.stream(tiles, pass.tile_columns, pass.block(0, token), width, sums);
    }
    write_outputs(pass.problem, pass.kernels, pass.first_token + token, width, first_row, rows, sums);
  }
}

// Asks for the next lines of the weights, a few with every block of tokens, so that reading overlaps computing. Past
// the end of the weights this is a harmless hint.
const uint8_t* prefetch(const uint8_t* data, int64_t lines) {
  for (int64_t i = 0; i < lines; ++i) __builtin_prefetch(data + i * kLineBytes);
  return data + lines * kLineBytes;
}

// Each chunk of the panel is decoded once and meets all tokens. W4A4 keeps one running sum an output, W4A16 two chains.
void decode_panel(const Pass& pass, const uint8_t* tiles, int64_t first_row, int rows, Scratch& scratch) {
  const int64_t group_bytes = pass.wide() ? kFloatPanelGroup * int64_t{sizeof(float)} : kPanelGroupBytes;
  const int64_t panel_bytes = pass.chunk_tiles * kTileGroups * group_bytes;
  const int64_t sums_per_token = pass.wide() ? 2 * kTileRows : kTileRows;
  const int64_t sum_count = pass.token_count * sums_per_token;
  uint8_t* panel = scratch.reserve(panel_bytes + sum_count * int64_t{sizeof(float)});
  float* float_panel = reinterpret_cast<float*>(panel);
  float* sums = reinterpret_cast<float*>(panel + panel_bytes);
  std::fill_n(sums, sum_count, 0.0f);
  const int64_t lines_per_block =
      ceil_div(pass.chunk_tiles * kTileBytes / kLineBytes, ceil_div(pass.token_count, pass.tokens()));
  for (int64_t tile = 0; tile < pass.tile_columns; tile += pass.chunk_tiles) {
    const int64_t count = pass.chunk_size(tile);
    if (pass.wide()) {
      pass.float_kernels.decode(tiles + tile * kTileBytes, count, float_panel);
    } else {
      pass.kernels.decode(tiles + tile * kTileBytes, count, panel);
    }
    const uint8_t* next = tiles + (tile + count) * kTileBytes;
    for (int64_t token = 0; token < pass.token_count; token += pass.tokens()) {
      next = prefetch(next, lines_per_block);
      const int width = pass.width(token);
      float* block_sums = sums + token * sums_per_token;
      if (pass.wide()) {
        pass.float_kernels.panel(float_panel, count * kTileGroups, pass.float_block(tile, token), width, block_sums);
      } else {
        pass.kernels.panel(panel, count * kTileGroups, pass.block(tile, token), width, block_sums);
      }
    }
  }
  if (pass.wide()) {
    for (int64_t i = 0; i < pass.token_count * kTileRows; ++i) {
      const float* even = sums + i / kTileRows * sums_per_token + i % kTileRows;
      sums[i] = even[0] + even[kTileRows];
    }
  }
  for (int64_t token = 0; token < pass.token_count; token += pass.tokens()) {
    write_outputs(pass.problem, pass.kernels, pass.first_token + token, pass.width(token), first_row, rows,
                  sums + token * kTileRows);
  }
}

void run_pass(const Pass& pass, int threads) {
  prepare_tokens(pass, threads);
  const int64_t panels = ceil_div(pass.problem.n, kTileRows);
  // About ten microseconds of work: a panel's weights at 7 bytes/ns, or its multiplications at 60 a ns.
  const int64_t panel_ns = 1 + pass.problem.k * (pass.token_count + 5) / 4;
  const int64_t grain = std::max<int64_t>(1, 10000 / panel_ns);
  parallel_for(panels, threads, grain, [&](int64_t begin, int64_t end) {
    thread_local Scratch scratch;
    for (int64_t p = begin; p < end; ++p) {
      const uint8_t* tiles = pass.problem.b_tiles + p * pass.tile_columns * kTileBytes;
      const int64_t first_row = p * kTileRows;
      const int rows = static_cast<int>(std::min(kTileRows, pass.problem.n - first_row));
      if (dispatch::decodes_panels(pass.path)) {
        decode_panel(pass, tiles, first_row, rows, scratch);
      } else {
        stream_panel(pass, tiles, first_row, rows);
      }
    }
  });
}

}  // namespace

void gemm(const GemmProblem& problem, int threads) {
  check_problem(problem);
  if (problem.m == 0 || problem.n == 0) return;
  const InstructionSet isa = current_isa();
  const GemmKernels& kernels = gemm_kernels(isa);
  const FloatGemmKernels& float_kernels = float_gemm_kernels(isa);
  const bool wide = problem.a_packed == nullptr;
  const int tokens = wide ? float_kernels.tokens : kernels.tokens;
  const dispatch::GemmPath path = dispatch::choose_gemm(problem, isa, tokens).path;
  const int64_t tile_columns = ceil_div(problem.k, kTileCols);
  const int64_t panel_chunk = wide ? kFloatChunkTiles : kChunkTiles;
  const int64_t chunk_tiles = dispatch::decodes_panels(path) ? panel_chunk : tile_columns;
  thread_local Scratch activations;
  for (int64_t first = 0; first < problem.m; first += kTokensAtOnce) {
    const int64_t token_count = std::min(kTokensAtOnce, problem.m - first);
    Pass pass{problem, kernels, float_kernels, path, first, token_count, tile_columns, chunk_tiles, nullptr};
    pass.blocks = activations.reserve(token_count * tile_columns * pass.tile_bytes());
    run_pass(pass, threads);
  }
}

void linear(const QuantizeProblem& x, const GemmProblem& gemm_problem, int threads) {
  check(x.rows == gemm_problem.m && x.cols == gemm_problem.k, "linear: got activations of ", x.rows, " x ", x.cols,
        ", wanted M x K = ", gemm_problem.m, " x ", gemm_problem.k);
  check(x.scale_layout == ScaleLayout::kPlain, "linear: got swizzled activation scales, wanted the plain layout");
  if (gemm_problem.m == 0 || gemm_problem.n == 0) return;
  const bool per_row = x.mode == GlobalScale::kGivenRow || x.mode == GlobalScale::kComputeRow;
  const bool given = x.mode == GlobalScale::kGivenTensor || x.mode == GlobalScale::kGivenRow;
  check(x.global_scale != nullptr || !given, "linear: the given activation global scale is null");
  const int64_t packed_bytes = round_up(x.rows * x.cols / 2, 64);
  const int64_t scale_bytes = round_up(x.rows * x.cols / kGroupSize, 64);
  thread_local Scratch scratch;
  uint8_t* packed = scratch.reserve(packed_bytes + scale_bytes + x.rows * int64_t{sizeof(float)});
  QuantizeProblem quantized = x;
  if (quantized.packed == nullptr) quantized.packed = packed;
  if (quantized.scale == nullptr) quantized.scale = packed + packed_bytes;
  if (quantized.global_scale == nullptr) {
    quantized.global_scale = reinterpret_cast<float*>(packed + packed_bytes + scale_bytes);
  }
  quantize(quantized, threads);
  GemmProblem problem = gemm_problem;
  problem.a = nullptr;
  problem.a_packed = quantized.packed;
  problem.a_scale = quantized.scale;
  problem.a_global_scale = quantized.global_scale;
  problem.a_global_scale_per_row = per_row;
  gemm(problem, threads);
}

}  // namespace nvfp4::cpu
