#include "dispatch/sm120_choice.h"

#include <algorithm>
#include <cmath>

#include "nvfp4/errors.h"
#include "nvfp4/layout.h"

namespace nvfp4::dispatch {
namespace {

// Up to here weights are streamed by the smallest shape that holds all tokens. The pieces of every such shape are the
// same and depend on n, k and the GPU alone, so a token's result does not depend on how many others there are.
constexpr int64_t kStreamedTokens = 256;

// --- the cost model's constants -----------------------------------------------------------------------------------
// Round numbers from the hardware, none fitted; bench/sm120_model.py compares what they predict with published timings.

constexpr double kLaunch = 2.5e-6;          // seconds: launch and the end of a kernel
constexpr double kReachedBandwidth = 0.9;   // of the nominal one, by a read-only kernel
constexpr double kBytesACycleRead = 32;     // by one SM: half of what its port to the L2 carries
constexpr double kCyclesAnMma = 4;          // of m16n8k64 on an SM: 2,048 FP4 products a cycle
constexpr double kReachedRate = 0.9;        // of the tensor cores, in the main loop (measured on the surrogate)
constexpr double kSegmentCycles = 1500;     // from the first copy of a segment to its first product
constexpr double kCyclesATokenStored = 10;  // a tile's results of one token
constexpr double kBytesACycleSummed = 48;   // of partial sums, through the L2

struct Work {
  int64_t panels, token_tiles, stages;

  int64_t tiles() const { return panels * token_tiles; }
};

Work work_of(const Sm120Shape& shape, int64_t m, int64_t n, int64_t k) {
  return {ceil_div(n, kUnitRows), ceil_div(m, shape.tokens), ceil_div(ceil_div(k, kUnitCols), shape.units)};
}

const Sm120Shape& shape_of(const Sm120Plan& plan) {
  const auto& shapes = sm120_shapes();
  check(plan.shape >= 0 && plan.shape < static_cast<int>(shapes.size()), "sm120: got shape ", plan.shape,
        ", wanted 0 to ", static_cast<int>(shapes.size()) - 1);
  return shapes[static_cast<size_t>(plan.shape)];
}

void predict(Sm120Plan& plan, int64_t m, int64_t n, int64_t k, const Gpu& gpu) {
  const Sm120Shape& shape = shape_of(plan);
  const Work work = work_of(shape, m, n, k);
  // The busiest thread block: its whole tiles, and a piece that covers parts of tiles.
  const double length = static_cast<double>(work.stages);
  const double whole = static_cast<double>(ceil_div(plan.whole, plan.blocks));
  const double piece = static_cast<double>(ceil_div((work.tiles() - plan.whole) * work.stages, plan.blocks));
  const double stages = whole * length + piece;
  const double segments = whole + (piece > 0 ? std::ceil(piece / length) + 1 : 0);
  const double parts = piece > 0 ? length / std::min(piece, length) + 1 : 1;
  const double partial_bytes = static_cast<double>(kUnitRows) * shape.tokens * 4;
  const double summed = parts > 1 ? (parts + segments) * partial_bytes / kBytesACycleSummed : 0;
  const double latency = (segments * (kSegmentCycles + shape.tokens * kCyclesATokenStored) + summed) / gpu.clock;
  const double multiply = stages * shape.units * 2.0 * shape.tokens * kCyclesAnMma / kReachedRate / gpu.clock;
  const double bytes = static_cast<double>(units_bytes(n, k)) + static_cast<double>(m) * (k * 0.5625 + n * 2.0);
  const double stage_bytes = shape.units * (static_cast<double>(kUnitBytes) + shape.tokens * 72.0);
  const double memory =
      std::max(bytes / (gpu.bandwidth * kReachedBandwidth), stages * stage_bytes / (kBytesACycleRead * gpu.clock));
  plan.seconds = kLaunch + latency + std::max(memory, multiply);
  plan.bound = latency + kLaunch > std::max(memory, multiply) ? "latency"
               : memory > multiply                            ? "memory"
                                                              : "tensor cores";
}

}  // namespace

const std::vector<Sm120Shape>& sm120_shapes() {
  static const std::vector<Sm120Shape> shapes = {
      {"stream-8", 8, 1, 4, 4, true},       {"stream-16", 16, 1, 4, 4, true},     {"stream-32", 32, 1, 3, 4, true},
      {"stream-64", 64, 1, 3, 4, true},     {"128x128x128", 128, 1, 4, 8, false}, {"128x128x256", 128, 2, 2, 8, false},
      {"256x128x128", 256, 1, 3, 8, false},
  };
  return shapes;
}

std::string sm120_describe(const Sm120Plan& plan) {
  const std::string name = shape_of(plan).name;
  const std::string tiles = plan.whole == 0 ? std::string("all tiles in pieces") : message("whole tiles: ", plan.whole);
  const std::string when = plan.tuned         ? std::string(", tuned on this GPU")
                           : plan.seconds > 0 ? message(", predicted ", plan.seconds * 1e6, " us, ", plan.bound)
                                              : std::string();
  return message(name, ", thread blocks: ", plan.blocks, ", ", tiles, when);
}

std::string sm120_refusal(const Sm120Plan& plan, int64_t m, int64_t n, int64_t k) {
  const auto& shapes = sm120_shapes();
  if (plan.shape < 0 || plan.shape >= static_cast<int>(shapes.size())) {
    return message("got shape ", plan.shape, ", wanted 0 to ", static_cast<int>(shapes.size()) - 1);
  }
  const Sm120Shape& shape = shapes[static_cast<size_t>(plan.shape)];
  const Work work = work_of(shape, m, n, k);
  constexpr int64_t kMost = int64_t{1} << 30;  // indices are 32 bits
  if (m < 1 || n < 1 || k < 1) return message("got m = ", m, ", n = ", n, ", k = ", k, ", wanted 1 or more");
  if (m > kMost || n > kMost || k > kMost) {
    return message("got m = ", m, ", n = ", n, ", k = ", k,
                   ", wanted at most 2^30 each: the product has more than 2^30 pieces");
  }
  if (n % 8 != 0 || k % 16 != 0) {
    return message("got n = ", n, " and k = ", k, ", wanted multiples of 8 and 16");
  }
  if (plan.blocks < 1) return message("got ", plan.blocks, " thread blocks, wanted 1 or more");
  if (ceil_div(k, kUnitCols) % shape.units != 0) {
    return message(shape.name, ": got k = ", k, ", wanted a multiple of ", shape.units * kUnitCols,
                   " when rounded up to 128");
  }
  if (plan.whole < 0 || plan.whole > work.tiles() || plan.whole % plan.blocks != 0) {
    return message(shape.name, ": got ", plan.whole, " whole tiles of ", work.tiles(), ", wanted a multiple of the ",
                   plan.blocks, " thread blocks");
  }
  const int64_t pieces = (work.tiles() - plan.whole) * work.stages;
  if (pieces > 0 && plan.blocks > pieces) {
    return message(shape.name, ": got ", plan.blocks, " thread blocks for ", pieces, " stages");
  }
  if (shape.tokens < 32 && work.token_tiles != 1) {
    return message(shape.name, ": got m = ", m, ", wanted at most ", shape.tokens,
                   ": a word of scales serves 32 tokens");
  }
  if (plan.group < 1 || work.tiles() > kMost || pieces > kMost) {
    return message(shape.name, ": the product has more than 2^30 pieces, or no group");
  }
  return "";
}

std::vector<Sm120Plan> sm120_candidates(int64_t m, int64_t n, int64_t k, const Gpu& gpu) {
  check(gpu.sms > 0 && gpu.clock > 0 && gpu.bandwidth > 0,
        "sm120: the GPU's SMs, clock and bandwidth must be positive");
  std::vector<Sm120Plan> plans;
  const auto& shapes = sm120_shapes();
  for (int i = 0; i < static_cast<int>(shapes.size()); ++i) {
    const Sm120Shape& shape = shapes[static_cast<size_t>(i)];
    const Work work = work_of(shape, m, n, k);
    const auto add = [&](int64_t blocks, int64_t whole) {
      Sm120Plan plan;
      plan.shape = i, plan.blocks = static_cast<int>(blocks), plan.whole = static_cast<int>(whole);
      // A wave's tiles as a square of operand bytes: as many token rows as weight rows.
      const double side = std::sqrt(static_cast<double>(gpu.sms) * kUnitRows / shape.tokens);
      plan.group = static_cast<int>(std::min<int64_t>(work.token_tiles, std::max<int64_t>(1, std::llround(side))));
      if (!sm120_refusal(plan, m, n, k).empty()) return;
      predict(plan, m, n, k, gpu);
      plans.push_back(plan);
    };
    if (m <= kStreamedTokens) {
      if (shape.tokens >= m && shape.units == 1 && plans.empty()) {
        add(std::min<int64_t>(gpu.sms, work.tiles() * work.stages), 0);
      }
      continue;
    }
    if (shape.tokens < 128) continue;
    // The tiles of the last wave, which has fewer than there are SMs, are cut into pieces; or else they are whole too.
    const int64_t blocks = std::min<int64_t>(gpu.sms, work.tiles() * work.stages), last = work.tiles() % blocks;
    add(blocks, work.tiles() - last);
    for (int64_t fewer = blocks; last != 0 && fewer > blocks / 2; --fewer) {
      if (work.tiles() % fewer == 0) {
        add(fewer, work.tiles());
        break;
      }
    }
    // Where neither can be, as with few stages to a tile, everything is cut.
    if (plans.empty()) add(blocks, 0);
  }
  return plans;
}

Sm120Plan sm120_predict(const Sm120Plan& plan, int64_t m, int64_t n, int64_t k, const Gpu& gpu) {
  check(plan.blocks > 0, "sm120_predict: got ", plan.blocks, " thread blocks, wanted 1 or more");
  Sm120Plan result = plan;
  predict(result, m, n, k, gpu);
  return result;
}

Sm120Plan sm120_choose(int64_t m, int64_t n, int64_t k, const Gpu& gpu) {
  const std::vector<Sm120Plan> plans = sm120_candidates(m, n, k, gpu);
  check(!plans.empty(), "sm120: no kernel for m = ", m, ", n = ", n, ", k = ", k);
  return *std::min_element(plans.begin(), plans.end(),
                           [](const Sm120Plan& a, const Sm120Plan& b) { return a.seconds < b.seconds; });
}

int64_t sm120_partial_bytes(const Sm120Plan& plan, int64_t m, int64_t n, int64_t k) {
  const Sm120Shape& shape = shape_of(plan);
  const Work work = work_of(shape, m, n, k);
  const int64_t slots = plan.whole == work.tiles() ? 0 : 2 * int64_t{plan.blocks};
  return slots * kUnitRows * shape.tokens * 4;
}

int64_t sm120_arrivals(const Sm120Plan& plan, int64_t m, int64_t n, int64_t k) {
  const Sm120Shape& shape = shape_of(plan);
  const Work work = work_of(shape, m, n, k);
  return plan.whole == work.tiles() ? 0 : work.tiles() * shape.warps;
}

}  // namespace nvfp4::dispatch
