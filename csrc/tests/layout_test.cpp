// The byte layouts: against their definition, as bijections, with their padding, and bad arguments.
#include "nvfp4/layout.h"

#include <random>

#include "quantize_test_support.h"

int run_layout_tests();

namespace {

using namespace nvfp4;
using namespace nvfp4::test;

Counter counter;

std::vector<uint8_t> random_bytes(std::mt19937& random, int64_t count, int limit = 256) {
  std::vector<uint8_t> bytes(static_cast<size_t>(count));
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random() % limit);
  return bytes;
}

void test_swizzle(std::mt19937& random, int64_t rows, int64_t groups) {
  const std::string name = "swizzle [" + std::to_string(rows) + ", " + std::to_string(groups) + "]";
  const std::vector<uint8_t> plain = random_bytes(random, rows * groups);
  // The definition of the layout: 128x4 blocks row by row; in each, 32 lines of sixteen bytes, one for rows r, r + 32,
  // ...
  std::vector<uint8_t> wanted(static_cast<size_t>((rows + 127) / 128 * ((groups + 3) / 4) * 512), 0);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t block = r / 128 * ((groups + 3) / 4) + g / 4;
      wanted[512 * block + 16 * (r % 32) + 4 * (r % 128 / 32) + g % 4] = plain[r * groups + g];
    }
  }
  wanted.push_back(0xA5);
  std::vector<uint8_t> swizzled(wanted.size(), 0xA5), back(plain.size(), 0xA5);
  cpu::swizzle_scales(plain.data(), rows, groups, swizzled.data());
  cpu::unswizzle_scales(swizzled.data(), rows, groups, back.data());
  counter.values += rows * groups;
  counter.expect(swizzled == wanted, name);
  counter.expect(back == plain, name + " and back");
}

void test_repack(std::mt19937& random, int64_t n, int64_t k) {
  const std::string name = "repack [" + std::to_string(n) + ", " + std::to_string(k) + "]";
  const std::vector<uint8_t> packed = random_bytes(random, n * k / 2), scale = random_bytes(random, n * k / 16, 128);
  std::vector<uint8_t> wanted(static_cast<size_t>(tiles_bytes(n, k)), 0);
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t column = 0; column < k; ++column) {
      uint8_t* tile = wanted.data() + (row / 16 * ((k + 63) / 64) + column / 64) * 576;
      const int code = packed[(row * k + column) / 2] >> (column % 2 ? 4 : 0) & 15;
      uint8_t& byte = tile[column % 64 / 16 * 128 + column % 16 / 8 * 64 + row % 16 * 4 + column % 4];
      byte = static_cast<uint8_t>(byte | code << (column % 8 < 4 ? 0 : 4));
      tile[512 + column % 64 / 16 * 16 + row % 16] = scale[(row * k + column) / 16];
    }
  }
  wanted.push_back(0xA5);
  for (const int threads : {1, 2}) {
    std::vector<uint8_t> tiles(wanted.size(), 0xA5), packed_back(packed.size(), 0xA5), scale_back(scale.size(), 0xA5);
    cpu::repack(packed.data(), scale.data(), n, k, tiles.data(), threads);
    cpu::unrepack(tiles.data(), n, k, packed_back.data(), scale_back.data(), threads);
    counter.values += n * k;
    counter.expect(tiles == wanted, name);
    counter.expect(packed_back == packed && scale_back == scale, name + " and back");
  }
}

void test_bad_arguments() {
  uint8_t packed[16] = {}, scale[2] = {}, tiles[576];
  counter.expect_error([&] { cpu::repack(packed, scale, 2, 17, tiles); }, "slice to 16, the nearest");
  counter.expect_error([&] { cpu::repack(packed, scale, -1, 16, tiles); }, "n: got -1");
  counter.expect_error([&] { cpu::repack(nullptr, scale, 2, 16, tiles); }, "packed: got a null");
  counter.expect_error([&] { cpu::repack(packed, nullptr, 2, 16, tiles); }, "scale: got a null");
  counter.expect_error([&] { cpu::repack(packed, scale, 2, 16, nullptr); }, "tiles: got a null");
  counter.expect_error([&] { cpu::repack(packed, scale, 2, 16, tiles, -3); }, "threads");
  counter.expect_error([&] { cpu::unrepack(tiles, int64_t{1} << 60, 1 << 10, packed, scale); }, "n * k");
  counter.expect_error([&] { cpu::swizzle_scales(scale, -1, 4, tiles); }, "rows: got -1");
  counter.expect_error([&] { cpu::swizzle_scales(scale, 1, -4, tiles); }, "groups: got -4");
  counter.expect_error([&] { cpu::swizzle_scales(nullptr, 1, 4, tiles); }, "plain: got a null");
  counter.expect_error([&] { cpu::unswizzle_scales(nullptr, 1, 4, scale); }, "swizzled: got a null");
  counter.expect_error([&] { cpu::swizzle_scales(scale, INT64_MAX, INT64_MAX, tiles); }, "rows * groups");
  scale[1] = 0x80;
  counter.expect_error([&] { cpu::repack(packed, scale, 2, 16, tiles); }, "scale[1, 0]: got byte 128");
}

}  // namespace

int run_layout_tests() {
  counter = {};
  std::mt19937 random(3);
  for (const int64_t rows : {0, 1, 2, 31, 32, 33, 127, 128, 129, 300}) {
    for (const int64_t groups : {0, 1, 2, 3, 4, 5, 8, 17, 40}) test_swizzle(random, rows, groups);
  }
  for (const int64_t n : {0, 1, 15, 16, 17, 33, 200}) {
    for (const int64_t k : {0, 16, 32, 48, 64, 80, 640}) test_repack(random, n, k);
  }
  test_bad_arguments();
  std::printf("layouts: %lld values, %d failures\n", static_cast<long long>(counter.values), counter.failures);
  return counter.failures;
}
