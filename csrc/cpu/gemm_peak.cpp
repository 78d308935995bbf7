#include <algorithm>
#include <chrono>
#include <cstring>

#include "gemm_kernels.h"
#include "gemm_operands.h"
#include "nvfp4/errors.h"
#include "nvfp4/probe.h"
#include "threads.h"

namespace nvfp4::cpu {
namespace {

// 32 groups of 16 rows by 8 tokens: 12 KiB of panel and 6 KiB of tokens stay in any first-level cache.
constexpr int64_t kProbeGroups = 32;
constexpr int64_t kProbeTokens = 8;
// Of W4A16, whose decoded panels and tokens are larger: 17 KiB and 8 KiB at most.
constexpr int64_t kFloatProbeGroups = 16;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Codes of any value and scales of 2^-4 (0x18): sums that stay finite. Zero tokens are as fast as any others.
constexpr uint8_t kTileByte = 0x18;

void run_dot_loop(const GemmKernels& kernels, int64_t iterations) {
  thread_local Scratch scratch;
  const int64_t tile_bytes = kProbeGroups / kTileGroups * kTileBytes;
  const int64_t panel_bytes = kProbeGroups * kPanelGroupBytes;
  const int64_t token_bytes = kProbeGroups * token_group_bytes(static_cast<int>(kProbeTokens));
  uint8_t* panel = scratch.reserve(panel_bytes + token_bytes + tile_bytes);
  uint8_t* tokens = panel + panel_bytes;
  uint8_t* tiles = tokens + token_bytes;
  memset(tiles, kTileByte, static_cast<size_t>(tile_bytes));
  memset(tokens, 0, static_cast<size_t>(token_bytes));
  kernels.decode(tiles, kProbeGroups / kTileGroups, panel);
  alignas(64) float sums[kMaxTokens * kTileRows] = {};
  for (int64_t i = 0; i < iterations; ++i) {
    for (int64_t t = 0; t < kProbeTokens; t += kernels.costs.tokens) {
      const uint8_t* block = tokens + t * kProbeGroups * token_group_bytes(1);
      kernels.panel(panel, kProbeGroups, block, kernels.costs.tokens, sums);
    }
  }
}

void run_float_dot_loop(const FloatGemmKernels& kernels, int64_t iterations) {
  thread_local Scratch scratch;
  const int64_t tile_bytes = kFloatProbeGroups / kTileGroups * kTileBytes;
  const int64_t panel_bytes = kFloatProbeGroups * kernels.panel_group_bytes;
  const int64_t token_bytes = kFloatProbeGroups * kGroupSize * kernels.element_bytes;
  uint8_t* panel = scratch.reserve(panel_bytes + kProbeTokens * token_bytes + tile_bytes);
  uint8_t* tokens = panel + panel_bytes;
  uint8_t* tiles = tokens + kProbeTokens * token_bytes;
  memset(tiles, kTileByte, static_cast<size_t>(tile_bytes));
  memset(tokens, 0, static_cast<size_t>(kProbeTokens * token_bytes));
  kernels.decode(tiles, kFloatProbeGroups / kTileGroups, panel);
  alignas(64) float chains[2 * kMaxTokens * kTileRows] = {};
  for (int64_t i = 0; i < iterations; ++i) {
    for (int64_t t = 0; t < kProbeTokens; t += kernels.costs.tokens) {
      kernels.panel(panel, kFloatProbeGroups, tokens + t * token_bytes, kernels.costs.tokens, chains);
    }
  }
}

// Multiply-adds a second of all threads together, when `run` does an iteration of `macs` of them.
template <typename Run>
double rate(const char* name, int64_t iterations, int threads, int64_t macs, Run run) {
  check(iterations > 0, name, ": got ", iterations, " iterations, wanted at least 1");
  const int team = resolve_threads(threads);
  run(1);
  const auto start = std::chrono::steady_clock::now();
  parallel_for(team, team, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) run(iterations);
  });
  return static_cast<double>(iterations * team * macs) / seconds_since(start);
}

// Independent chains of loads; the result only keeps the compiler from leaving the loads out.
template <bool kPrefetch>
uint64_t read_all(const uint8_t* data, int64_t bytes) {
  constexpr int64_t kStep = 128;
  constexpr int64_t kAhead = 1152;
  uint64_t sums[kStep / 8] = {};
  for (int64_t i = 0; i + kStep <= bytes; i += kStep) {
    if (kPrefetch) {
      __builtin_prefetch(data + i + kAhead);
      __builtin_prefetch(data + i + kAhead + kStep / 2);
    }
    uint64_t words[kStep / 8];
    memcpy(words, data + i, sizeof(words));
    for (int j = 0; j < kStep / 8; ++j) sums[j] ^= words[j];
  }
  uint64_t all = 0;
  for (const uint64_t sum : sums) all ^= sum;
  return all;
}

template <bool kPrefetch>
double read_seconds(const void* data, int64_t bytes, int threads) {
  const auto start = std::chrono::steady_clock::now();
  parallel_for(bytes, threads, 1 << 20, [&](int64_t begin, int64_t end) {
    volatile uint64_t sink = read_all<kPrefetch>(static_cast<const uint8_t*>(data) + begin, end - begin);
    static_cast<void>(sink);
  });
  return seconds_since(start);
}

}  // namespace

double dot_loop(int64_t iterations, int threads) {
  const GemmKernels& kernels = gemm_kernels(current_isa());
  return rate("dot_loop", iterations, threads, kProbeGroups * kGroupSize * kTileRows * kProbeTokens,
              [&](int64_t n) { run_dot_loop(kernels, n); });
}

double float_dot_loop(int64_t iterations, DType activations, int threads) {
  const FloatGemmKernels& kernels = float_gemm_kernels(current_isa(), activations);
  return rate("float_dot_loop", iterations, threads, kFloatProbeGroups * kGroupSize * kTileRows * kProbeTokens,
              [&](int64_t n) { run_float_dot_loop(kernels, n); });
}

double read_bandwidth(const void* data, int64_t bytes, int threads) {
  check(data != nullptr && bytes > 0, "read_bandwidth: got ", bytes, " bytes", data == nullptr ? " at null" : "",
        ", wanted a filled buffer of at least 1 byte");
  const int64_t half = bytes / 2;
  const int64_t rest = bytes - half;
  const double plain = half > 0 ? static_cast<double>(half) / read_seconds<false>(data, half, threads) : 0.0;
  return std::max(
      plain, static_cast<double>(rest) / read_seconds<true>(static_cast<const uint8_t*>(data) + half, rest, threads));
}

}  // namespace nvfp4::cpu
