// Which part of the product each thread block makes, and in what order. Everything is static: known from the sizes and
// the block's index.
#pragma once

#include <cstdint>

#include "cuda/launch.cuh"
#include "cuda/ptx/bits.cuh"
#include "nvfp4/layout.h"

namespace nvfp4::cuda::sm120 {

// One tile's columns [begin, end), in stages. A tile made of several parts is summed in the order of its parts by
// whoever is last to finish one.
struct Segment {
  int panel, token_tile;
  int tile;
  int begin, end;
  int part, parts;
};

// Tiles [0, whole) go to the thread blocks in turn, as many to each. The stages of all other tiles lie in one line,
// which is cut into one piece a block: so every block has the same to do, however many tiles there are.
struct Schedule {
  int panels, token_tiles;  // tiles down (128 weight rows each) and across
  int stages;               // along K, of one tile
  int whole;                // a multiple of the number of blocks
  int group;                // token tiles that neighbouring blocks cover before they go on to the next panel
  int piece, longer;        // the first `longer` pieces have `piece` + 1 stages, the others `piece`
  Divider by_stages, by_group_tiles, by_group, by_last_group, by_longer_piece, by_piece;

  __device__ int piece_begin(int block) const { return block * piece + min(block, longer); }
  // The block whose piece holds stage `index` of the line.
  __device__ int block_of(int index) const {
    const int in_longer = longer * (piece + 1);
    if (index < in_longer) return static_cast<int>(by_longer_piece.divide(static_cast<uint32_t>(index)));
    return longer + static_cast<int>(by_piece.divide(static_cast<uint32_t>(index - in_longer)));
  }
};

// The segments of this thread block, one after the other: whole tiles first.
class Segments {
 public:
  __device__ explicit Segments(const Schedule& schedule)
      : s_(schedule), tile_(static_cast<int>(blockIdx.x)), next_(s_.piece_begin(static_cast<int>(blockIdx.x))) {}

  __device__ bool done() const {
    return tile_ >= s_.whole && next_ >= s_.piece_begin(static_cast<int>(blockIdx.x) + 1);
  }

  __device__ Segment current() const {
    Segment segment;
    if (tile_ < s_.whole) {
      segment.tile = tile_;
      segment.begin = 0, segment.end = s_.stages;
      segment.part = 0, segment.parts = 1;
    } else {
      const auto tile = static_cast<int>(s_.by_stages.divide(static_cast<uint32_t>(next_)));
      const int first = tile * s_.stages, block = static_cast<int>(blockIdx.x), first_block = s_.block_of(first);
      segment.tile = s_.whole + tile;
      segment.begin = next_ - first;
      segment.end = min(s_.stages, s_.piece_begin(block + 1) - first);
      segment.part = block - first_block;
      segment.parts = s_.block_of(first + s_.stages - 1) - first_block + 1;
    }
    // Groups of token tiles; inside a group the tiles of one panel are neighbours, so that blocks at work together read
    // a roughly square part of both operands.
    const auto which = static_cast<int>(s_.by_group_tiles.divide(static_cast<uint32_t>(segment.tile)));
    const int inside = segment.tile - which * s_.group * s_.panels;
    const bool last = (which + 1) * s_.group > s_.token_tiles;
    const int width = last ? s_.token_tiles - which * s_.group : s_.group;
    segment.panel = static_cast<int>((last ? s_.by_last_group : s_.by_group).divide(static_cast<uint32_t>(inside)));
    segment.token_tile = which * s_.group + inside - segment.panel * width;
    return segment;
  }

  __device__ void advance(const Segment& segment) {
    if (tile_ < s_.whole) {
      tile_ += static_cast<int>(gridDim.x);
    } else {
      next_ += segment.end - segment.begin;
    }
  }

  // What is derived from the position need not live in registers meanwhile.
  __device__ void forget() { ptx::forget(tile_, next_); }

  // Where part `part` of a tile leaves its sums. A block has at most two unfinished tiles: the one it begins inside of,
  // and the one it ends inside of.
  __device__ int64_t slot(const Segment& segment, int part) const {
    const int first = (segment.tile - s_.whole) * s_.stages;
    const int block = s_.block_of(first) + part;
    return 2 * int64_t{block} + (s_.piece_begin(block) <= first ? 1 : 0);
  }

 private:
  const Schedule& s_;
  int tile_, next_;
};

}  // namespace nvfp4::cuda::sm120
