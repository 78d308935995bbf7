// Plain weights to n16k64 tiles and back (layout.h). Integer work done once a weight when it is loaded, hence plain
// C++.
#include <algorithm>

#include "nvfp4/cpu.h"
#include "quantize_arguments.h"
#include "threads.h"

namespace nvfp4::cpu {
namespace {

constexpr int64_t kGrainPanels = 4;
constexpr int64_t kHalves = 2;  // of a group: eight columns, a 32-bit word of codes
constexpr int64_t kWordBytes = 4;

// Plain order has column i of eight in nibble i; tile order has columns i and 4 + i in byte i. So the low half of the
// word spreads over the even nibbles and the high half over the odd ones.
uint32_t to_tile_order(uint32_t word) {
  uint32_t low = word & 0xFFFFu, high = word >> 16;
  low = (low | low << 8) & 0x00FF00FFu;
  low = (low | low << 4) & 0x0F0F0F0Fu;
  high = (high | high << 8) & 0x00FF00FFu;
  high = (high | high << 4) & 0x0F0F0F0Fu;
  return low | high << 4;
}

uint32_t to_plain_order(uint32_t word) {
  uint32_t low = word & 0x0F0F0F0Fu, high = word >> 4 & 0x0F0F0F0Fu;
  low = (low | low >> 4) & 0x00FF00FFu;
  low = (low | low >> 8) & 0xFFFFu;
  high = (high | high >> 4) & 0x00FF00FFu;
  high = (high | high >> 8) & 0xFFFFu;
  return low | high << 16;
}

// Where in the tiles the codes (two words, one a half) and the scale of a row's group lie.
struct Place {
  int64_t codes;
  int64_t scale;
};

Place place(int64_t row, int64_t group, int64_t tiles_per_panel) {
  const int64_t tile = (row / kTileRows * tiles_per_panel + group / kTileGroups) * kTileBytes;
  const int64_t lane = row % kTileRows, part = group % kTileGroups;
  return {tile + part * kHalves * kTileRows * kWordBytes + lane * kWordBytes,
          tile + kTileCodeBytes + part * kTileRows + lane};
}

uint32_t load_word(const uint8_t* from) {
  return from[0] | static_cast<uint32_t>(from[1]) << 8 | static_cast<uint32_t>(from[2]) << 16 |
         static_cast<uint32_t>(from[3]) << 24;
}

void store_word(uint8_t* to, uint32_t word) {
  for (int i = 0; i < kWordBytes; ++i) to[i] = static_cast<uint8_t>(word >> (8 * i));
}

void check_repack(const char* function, const uint8_t* packed, const uint8_t* scale, int64_t n, int64_t k,
                  const uint8_t* tiles) {
  check_size(function, "n", n);
  check_columns(function, "k", k);
  check_product(function, "n * k", n, k);
  if (n == 0 || k == 0) return;
  check_pointer(function, "packed", packed);
  check_pointer(function, "scale", scale);
  check_pointer(function, "tiles", tiles);
}

// Before anything is written: kernels read a scale's magnitude alone.
void check_scales(const uint8_t* scale, int64_t n, int64_t groups) {
  const uint8_t* const end = scale + n * groups;
  const uint8_t* const bad = std::find_if(scale, end, [](uint8_t code) { return (code & 0x80) != 0; });
  if (bad == end) return;
  check(false, "repack: scale[", (bad - scale) / groups, ", ", (bad - scale) % groups, "]: got byte ",
        static_cast<int>(*bad), ", a negative e4m3 number, wanted 0 or more; the checkpoint is damaged or not NVFP4");
}

}  // namespace

void repack(const uint8_t* packed, const uint8_t* scale, int64_t n, int64_t k, uint8_t* tiles, int threads) {
  check_repack("repack", packed, scale, n, k, tiles);
  const int workers = resolve_threads(threads);
  const int64_t groups = k / kGroupSize;
  check_scales(scale, n, groups);
  const int64_t tiles_per_panel = ceil_div(k, kTileCols);
  const int64_t padded_groups = tiles_per_panel * kTileGroups;
  parallel_for(ceil_div(n, kTileRows), workers, kGrainPanels, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin * kTileRows; row < end * kTileRows; ++row) {
      for (int64_t g = 0; g < padded_groups; ++g) {
        const Place at = place(row, g, tiles_per_panel);
        const bool real = row < n && g < groups;
        const uint8_t* from = packed + (real ? (row * groups + g) * (kGroupSize / 2) : 0);
        for (int64_t half = 0; half < kHalves; ++half) {
          const uint32_t word = real ? to_tile_order(load_word(from + half * kWordBytes)) : 0;
          store_word(tiles + at.codes + half * kTileRows * kWordBytes, word);
        }
        tiles[at.scale] = real ? scale[row * groups + g] : 0;
      }
    }
  });
}

void unrepack(const uint8_t* tiles, int64_t n, int64_t k, uint8_t* packed, uint8_t* scale, int threads) {
  check_repack("unrepack", packed, scale, n, k, tiles);
  const int workers = resolve_threads(threads);
  const int64_t groups = k / kGroupSize, tiles_per_panel = ceil_div(k, kTileCols);
  parallel_for(n, workers, kGrainPanels * kTileRows, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t g = 0; g < groups; ++g) {
        const Place at = place(row, g, tiles_per_panel);
        uint8_t* const to = packed + (row * groups + g) * (kGroupSize / 2);
        for (int64_t half = 0; half < kHalves; ++half) {
          const uint32_t word = load_word(tiles + at.codes + half * kTileRows * kWordBytes);
          store_word(to + half * kWordBytes, to_plain_order(word));
        }
        scale[row * groups + g] = tiles[at.scale];
      }
    }
  });
}

}  // namespace nvfp4::cpu
