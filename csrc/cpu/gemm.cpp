// The gemm driver: checks, scratch, blocking and threads, shared by all instruction sets.
//
// Threads take contiguous ranges of 16-row panels, so every output is one thread's work and its order of summation does
// not depend on how many there are.
#include <algorithm>
#include <cmath>
#include <limits>

#include "dispatch/gemm_choice.h"
#include "gemm_kernels.h"
#include "gemm_operands.h"
#include "nvfp4/cpu.h"
#include "nvfp4/errors.h"
#include "threads.h"

namespace nvfp4::cpu {
namespace {

// Tokens that go through the weights together at most: bounds the scratch. A multiple of every block width.
constexpr int64_t kTokensAtOnce = 256;
// W4A4's tiles decoded at a time: with a block of tokens they stay in a 32 KiB first-level cache.
constexpr int64_t kChunkTiles = 8;
constexpr int64_t kLineBytes = 64;
// Panels that take turns at a chunk, so that its tokens, when they are too many for the second-level cache with all
// their columns, are read from the third level once for all of these panels. With few tokens it would only scatter the
// reading.
constexpr int64_t kPanelsTogether = 8;
constexpr int64_t kTokensForTogether = 64;
// The most memory that a thread keeps for the quantised activations of its next call; what is larger is given back.
constexpr int64_t kKeptBytes = int64_t{64} << 20;

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
    // Rows may overlap or be one and the same; only the address of the last one must fit.
    const int64_t most = std::numeric_limits<int64_t>::max() / 1024 / p.m;
    check(p.a_row_stride >= 0 && p.a_row_stride <= most, "gemm: got activations with a row stride of ", p.a_row_stride,
          ", wanted 0 to ", most, "; copy the activations first");
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
  const dispatch::GemmCosts& costs() const { return wide() ? float_kernels.costs : kernels.costs; }
  int tokens() const { return costs().tokens; }
  int width(int64_t token) const { return static_cast<int>(std::min<int64_t>(tokens(), token_count - token)); }
  int64_t tile_bytes() const {  // of one token
    return wide() ? kTileCols * float_kernels.element_bytes : kTileGroups * token_group_bytes(1);
  }
  int64_t chunk_size(int64_t tile) const { return std::min(chunk_tiles, tile_columns - tile); }
  uint8_t* block(int64_t first_tile, int64_t token) const {
    return blocks + (first_tile * token_count + chunk_size(first_tile) * token) * tile_bytes();
  }
  const uint8_t* tiles(int64_t panel, int64_t tile) const {
    return problem.b_tiles + (panel * tile_columns + tile) * kTileBytes;
  }
  int rows(int64_t panel) const { return static_cast<int>(std::min(kTileRows, problem.n - panel * kTileRows)); }
  int64_t sums_per_token() const { return wide() ? 2 * kTileRows : kTileRows; }  // W4A16 has two chains
  void write(int64_t panel, int64_t token, const float* sums, int64_t per_token) const {
    write_outputs(problem, kernels, first_token + token, width(token), panel * kTileRows, rows(panel), sums, per_token);
  }
};

void prepare_block(const Pass& pass, int64_t token) {
  const int width = pass.width(token);
  const int64_t first = pass.first_token + token;
  const bool unsigned_codes = pass.path == dispatch::GemmPath::kPanel && pass.kernels.unsigned_in_panel;
  for (int64_t tile = 0; tile < pass.tile_columns; tile += pass.chunk_tiles) {
    const int64_t count = pass.chunk_size(tile);
    if (!pass.wide()) {
      expand_tokens(pass.problem, first, width, tile, count, unsigned_codes, pass.kernels.offset_bias,
                    pass.block(tile, token));
    } else if (pass.float_kernels.element_bytes == sizeof(float)) {
      widen_tokens(pass.problem, first, width, tile, count, reinterpret_cast<float*>(pass.block(tile, token)));
    } else {
      copy_tokens(pass.problem, first, width, tile, count, pass.block(tile, token));
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

void stream_panel(const Pass& pass, int64_t panel) {
  const uint8_t* tiles = pass.tiles(panel, 0);
  for (int64_t token = 0; token < pass.token_count; token += pass.tokens()) {
    alignas(64) float sums[kMaxTokens * kTileRows] = {};
    const int width = pass.width(token);
    if (pass.wide()) {
      pass.float_kernels.stream(tiles, pass.tile_columns, pass.block(0, token), width, sums);
    } else {
      pass.kernels.stream(tiles, pass.tile_columns, pass.block(0, token), width, sums);
    }
    pass.write(panel, token, sums, kTileRows);
  }
}

// Asks for what will be read next, a few lines with every block of tokens, so that reading overlaps computing. Past the
// end this is a harmless hint.
struct Ahead {
  const uint8_t* next;
  int64_t lines;  // a step

  Ahead(const uint8_t* data, int64_t bytes, int64_t steps) : next(data), lines(ceil_div(bytes, kLineBytes * steps)) {}
  void step() {
    for (int64_t i = 0; i < lines; ++i, next += kLineBytes) __builtin_prefetch(next);
  }
};

// Decodes one chunk of a panel and adds its products with all tokens to `sums`.
void add_chunk(const Pass& pass, int64_t panel, int64_t tile, Ahead weights, Ahead& tokens, uint8_t* decoded,
               float* sums) {
  const int64_t count = pass.chunk_size(tile);
  if (pass.wide()) {
    pass.float_kernels.decode(pass.tiles(panel, tile), count, decoded);
  } else {
    pass.kernels.decode(pass.tiles(panel, tile), count, decoded);
  }
  for (int64_t token = 0; token < pass.token_count; token += pass.tokens()) {
    weights.step();
    tokens.step();
    const int width = pass.width(token);
    float* block_sums = sums + token * pass.sums_per_token();
    if (pass.wide()) {
      pass.float_kernels.panel(decoded, count * kTileGroups, pass.block(tile, token), width, block_sums);
    } else {
      pass.kernels.panel(decoded, count * kTileGroups, pass.block(tile, token), width, block_sums);
    }
  }
}

void decode_panels(const Pass& pass, int64_t first_panel, int64_t panel_count, Scratch& scratch) {
  const int64_t group_bytes = pass.wide() ? pass.float_kernels.panel_group_bytes : kPanelGroupBytes;
  const int64_t decoded_bytes = pass.chunk_tiles * kTileGroups * group_bytes;
  const int64_t sum_count = pass.token_count * pass.sums_per_token();
  uint8_t* decoded = scratch.reserve(decoded_bytes + panel_count * sum_count * int64_t{sizeof(float)});
  float* sums = reinterpret_cast<float*>(decoded + decoded_bytes);
  std::fill_n(sums, panel_count * sum_count, 0.0f);
  const int64_t blocks = ceil_div(pass.token_count, pass.tokens());
  for (int64_t tile = 0; tile < pass.tile_columns; tile += pass.chunk_tiles) {
    const int64_t after = tile + pass.chunk_tiles < pass.tile_columns ? tile + pass.chunk_tiles : 0;
    const int64_t token_bytes = pass.chunk_size(after) * pass.token_count * pass.tile_bytes();
    Ahead tokens(pass.block(after, 0), token_bytes, blocks * panel_count);
    for (int64_t i = 0; i < panel_count; ++i) {
      // The chunk of the next panel; after the last panel its first one's next chunk, or the next panels' first.
      const bool last = i + 1 == panel_count;
      const int64_t next_panel = first_panel + (!last ? i + 1 : after == 0 ? panel_count : 0);
      const uint8_t* next = pass.tiles(next_panel, last ? after : tile);
      const Ahead weights(next, pass.chunk_tiles * kTileBytes, blocks);
      add_chunk(pass, first_panel + i, tile, weights, tokens, decoded, sums + i * sum_count);
    }
  }
  // A block of tokens is written for all panels before the next one: their outputs share lines.
  for (int64_t token = 0; token < pass.token_count; token += pass.tokens()) {
    for (int64_t i = 0; i < panel_count; ++i) {
      const float* block_sums = sums + i * sum_count + token * pass.sums_per_token();
      pass.write(first_panel + i, token, block_sums, pass.sums_per_token());
    }
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
    if (dispatch::decodes_panels(pass.path)) {
      const int64_t together = pass.token_count >= kTokensForTogether ? kPanelsTogether : 1;
      for (int64_t panel = begin; panel < end; panel += together) {
        decode_panels(pass, panel, std::min(together, end - panel), scratch);
      }
    } else {
      for (int64_t panel = begin; panel < end; ++panel) stream_panel(pass, panel);
    }
  });
}

}  // namespace

void gemm(const GemmProblem& problem, int threads) {
  check_problem(problem);
  if (problem.m == 0 || problem.n == 0) return;
  const InstructionSet isa = current_isa();
  const GemmKernels& kernels = gemm_kernels(isa);
  const FloatGemmKernels& float_kernels = float_gemm_kernels(isa, problem.a_dtype);
  const bool wide = problem.a_packed == nullptr;
  const dispatch::GemmCosts& costs = wide ? float_kernels.costs : kernels.costs;
  const dispatch::GemmPath path = dispatch::choose_gemm(problem, isa, costs).path;
  const int64_t tile_columns = ceil_div(problem.k, kTileCols);
  const int64_t panel_chunk = wide ? float_kernels.chunk_tiles : kChunkTiles;
  const int64_t chunk_tiles = dispatch::decodes_panels(path) ? panel_chunk : tile_columns;
  thread_local Scratch activations;
  // Passes of equal length: 257 tokens are better 136 and 121 than 256 and 1.
  const int64_t passes = ceil_div(problem.m, kTokensAtOnce);
  const int64_t step = round_up(ceil_div(problem.m, passes), kMaxTokens);
  for (int64_t first = 0; first < problem.m; first += step) {
    const int64_t token_count = std::min(step, problem.m - first);
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
  const int64_t bytes = packed_bytes + scale_bytes + x.rows * int64_t{sizeof(float)};
  thread_local Scratch kept;
  Scratch large;
  uint8_t* packed = (bytes <= kKeptBytes ? kept : large).reserve(bytes);
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
