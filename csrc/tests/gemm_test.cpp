// gemm against its scalar definition, bit for bit: every instruction set that this binary has and this CPU runs.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "nvfp4/cpu.h"
#include "nvfp4/errors.h"
#include "nvfp4/formats.h"
#include "nvfp4/layout.h"

int run_gemm_tests();

namespace {

using namespace nvfp4;

int failures = 0;

void expect(bool condition, const std::string& what) {
  if (condition) return;
  if (++failures <= 20) std::printf("FAILED %s\n", what.c_str());
}

struct Case {
  int64_t m, n, k;
  DType out_dtype;
  bool with_bias;
  bool per_row;  // global scales
  bool nan_scales;
};

std::string describe(const Case& c, const std::string& isa, int threads) {
  return isa + " threads " + std::to_string(threads) + " M " + std::to_string(c.m) + " N " + std::to_string(c.n) +
         " K " + std::to_string(c.k) + " dtype " + std::to_string(static_cast<int>(c.out_dtype)) +
         (c.nan_scales ? " with NaN scales" : "");
}

// Random codes and scales in plain layout; the scales cover subnormals, zero and, if asked for, NaN, but every third
// matrix has normal ones only, for which some kernels have a path of their own.
struct Quantized {
  std::vector<uint8_t> packed, scale;
  std::vector<float> global;
  Quantized(std::mt19937& random, int64_t rows, int64_t k, bool per_row, bool nans) {
    packed.resize(static_cast<size_t>(rows * k / 2));
    scale.resize(static_cast<size_t>(rows * k / 16));
    global.resize(static_cast<size_t>(per_row ? rows : 1) + 1);
    for (uint8_t& byte : packed) byte = static_cast<uint8_t>(random());
    const bool normal = !nans && random() % 3 == 0;
    for (uint8_t& byte : scale) {
      byte = static_cast<uint8_t>(normal ? 8 + random() % 0x77 : random() % 0x7F);
      if (nans && random() % 61 == 0) byte = kE4M3Nan;
    }
    for (float& g : global) g = std::ldexp(1.0f + static_cast<float>(random() % 1000) / 1000.0f, 3 + random() % 6);
  }
};

std::vector<uint8_t> make_tiles(const Quantized& w, int64_t n, int64_t k) {
  std::vector<uint8_t> tiles(static_cast<size_t>(tiles_bytes(n, k)), 0);
  const int64_t columns = ceil_div(k, kTileCols);
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t column = 0; column < k; ++column) {
      uint8_t* tile = tiles.data() + ((row / 16) * columns + column / 64) * kTileBytes;
      const int code = w.packed[static_cast<size_t>(row * k + column) / 2] >> (column % 2 ? 4 : 0) & 15;
      uint8_t& byte = tile[column % 64 / 16 * 128 + column % 16 / 8 * 64 + row % 16 * 4 + column % 4];
      byte = static_cast<uint8_t>(byte | code << (column % 8 < 4 ? 0 : 4));
      tile[kTileCodeBytes + column % 64 / 16 * 16 + row % 16] = w.scale[static_cast<size_t>(row * k + column) / 16];
    }
  }
  return tiles;
}

int twice_value(const Quantized& q, int64_t index) {
  return kTwiceE2M1[q.packed[static_cast<size_t>(index) / 2] >> (index % 2 ? 4 : 0) & 15];
}

float w4a4_sum(const Quantized& a, const Quantized& b, int64_t row_a, int64_t row_b, int64_t k) {
  float sum = 0;
  for (int64_t g = 0; g < k / 16; ++g) {
    int dot = 0;
    for (int64_t i = 16 * g; i < 16 * g + 16; ++i) dot += twice_value(a, row_a * k + i) * twice_value(b, row_b * k + i);
    const float s_a = e4m3_to_float(a.scale[static_cast<size_t>(row_a * k / 16 + g)]);
    const float s_b = e4m3_to_float(b.scale[static_cast<size_t>(row_b * k / 16 + g)]);
    sum += static_cast<float>(0.25 * dot * s_a * s_b);
  }
  return sum;
}

float w4a16_sum(const float* x, const Quantized& b, int64_t row_b, int64_t k) {
  float chain[2] = {0, 0};
  for (int64_t g = 0; g < k / 16; ++g) {
    const float s_b = e4m3_to_float(b.scale[static_cast<size_t>(row_b * k / 16 + g)]);
    float group[2] = {0, 0};
    for (int64_t i = 16 * g; i < 16 * g + 16; ++i) {
      float& chain_of_column = group[i % 4 / 2];
      chain_of_column = std::fma(0.5f * static_cast<float>(twice_value(b, row_b * k + i)), x[i], chain_of_column);
    }
    for (int parity = 0; parity < 2; ++parity) chain[parity] = std::fma(s_b, group[parity], chain[parity]);
  }
  return chain[0] + chain[1];
}

float flushed(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }

// The same where bfloat16 activations are multiplied in pairs.
float w4a16_pair_sum(const float* x, const Quantized& b, int64_t row_b, int64_t k) {
  float chain[2] = {0, 0};
  for (int64_t four = 0; four < k; four += 4) {
    for (const int column : {2, 0, 3, 1}) {
      const float s_b = e4m3_to_float(b.scale[static_cast<size_t>(row_b * k + four) / 16]);
      const float w = 0.5f * static_cast<float>(twice_value(b, row_b * k + four + column)) * s_b;
      chain[column % 2] = flushed(std::fma(w, flushed(x[four + column]), chain[column % 2]));
    }
  }
  return chain[0] + chain[1];
}

uint16_t bfloat16_of(float y) {
  if (y != y) return 0x7FC0;
  const uint32_t bits = float_bits(y);
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

// By search among all float16 values, so that it shares no idea with the code under test.
uint16_t float16_of(float y) {
  if (y != y) return 0x7E00;
  const auto value = [](int h) {
    return h < 1024 ? std::ldexp(static_cast<double>(h), -24) : std::ldexp(1024.0 + h % 1024, h / 1024 - 25);
  };
  const double magnitude = std::fabs(static_cast<double>(y));
  int low = 0, high = 0x7C00;  // value(0x7C00) is 65536: where infinity stands on the grid
  if (magnitude >= 65536) return static_cast<uint16_t>((std::signbit(y) ? 0x8000 : 0) | 0x7C00);
  while (high - low > 1) (value((low + high) / 2) <= magnitude ? low : high) = (low + high) / 2;
  const double down = magnitude - value(low), up = value(high) - magnitude;
  const int nearest = down < up || (down == up && low % 2 == 0) ? low : high;
  return static_cast<uint16_t>((std::signbit(y) ? 0x8000 : 0) | nearest);
}

std::vector<uint8_t> finish(const Case& c, const std::vector<float>& sums, const float* g_a, const Quantized& b,
                            const std::vector<float>& bias) {
  std::vector<uint8_t> out;
  for (int64_t i = 0; i < c.m * c.n; ++i) {
    const double scale_a = g_a == nullptr ? 1.0 : g_a[c.per_row ? i / c.n : 0];
    const double scale_b = b.global[static_cast<size_t>(c.per_row ? i % c.n : 0)];
    float y = sums[static_cast<size_t>(i)] * static_cast<float>(1.0 / (scale_a * scale_b));
    if (c.with_bias) y += bias[static_cast<size_t>(i % c.n)];
    if (y != y) y = bits_float(0x7FC00000u);
    const uint16_t narrow = c.out_dtype == DType::kBFloat16 ? bfloat16_of(y) : float16_of(y);
    const bool wide = c.out_dtype == DType::kFloat32;
    const uint8_t* bytes = wide ? reinterpret_cast<const uint8_t*>(&y) : reinterpret_cast<const uint8_t*>(&narrow);
    out.insert(out.end(), bytes, bytes + (wide ? 4 : 2));
  }
  return out;
}

void run_everywhere(const Case& c, GemmProblem problem, const std::vector<uint8_t>& wanted_mostly,
                    const std::vector<uint8_t>& wanted_of_pairs, const char* scheme) {
  constexpr size_t kGuard = 64;
  for (const cpu::Isa& isa : cpu::isas()) {
    if (!isa.compiled || !isa.supported) continue;
    cpu::set_isa(isa.name);
    const std::vector<uint8_t>& wanted = isa.name == "avx512bf16" ? wanted_of_pairs : wanted_mostly;
    for (int threads = 1; threads <= 2; ++threads) {
      std::vector<uint8_t> out(wanted.size() + kGuard, 0xA5);
      problem.out = out.data();
      cpu::gemm(problem, threads);
      const std::string label = std::string(scheme) + " " + describe(c, isa.name, threads);
      expect(std::equal(wanted.begin(), wanted.end(), out.begin()), label);
      bool intact = true;
      for (size_t i = 0; i < kGuard; ++i) intact &= out[wanted.size() + i] == 0xA5;
      expect(intact, label + ": wrote past the output");
    }
  }
  cpu::set_isa("");
}

void test_case(const Case& c, uint32_t seed) {
  std::mt19937 random(seed);
  const Quantized a(random, c.m, c.k, c.per_row, c.nan_scales);
  const Quantized b(random, c.n, c.k, c.per_row, c.nan_scales);
  const std::vector<uint8_t> tiles = make_tiles(b, c.n, c.k);
  std::vector<float> bias(static_cast<size_t>(c.n) + 1);
  for (float& value : bias) value = static_cast<float>(static_cast<int>(random() % 2001) - 1000);

  GemmProblem problem;
  problem.m = c.m;
  problem.n = c.n;
  problem.k = c.k;
  problem.b_tiles = tiles.data();
  problem.b_global_scale = b.global.data();
  problem.b_global_scale_per_row = c.per_row;
  problem.bias = c.with_bias ? bias.data() : nullptr;
  problem.bias_dtype = DType::kFloat32;
  problem.out_dtype = c.out_dtype;

  std::vector<float> sums;
  for (int64_t i = 0; i < c.m * c.n; ++i) sums.push_back(w4a4_sum(a, b, i / c.n, i % c.n, c.k));
  problem.a_packed = a.packed.data();
  problem.a_scale = a.scale.data();
  problem.a_global_scale = a.global.data();
  problem.a_global_scale_per_row = c.per_row;
  const std::vector<uint8_t> wanted_w4a4 = finish(c, sums, a.global.data(), b, bias);
  run_everywhere(c, problem, wanted_w4a4, wanted_w4a4, "W4A4");

  const int64_t stride = c.k + 3;
  std::vector<float> x(static_cast<size_t>(c.m * stride) + 1);
  for (float& value : x) value = std::ldexp(static_cast<float>(static_cast<int>(random() % 511) - 255), -6);
  sums.clear();
  std::vector<float> pair_sums;
  for (int64_t i = 0; i < c.m * c.n; ++i) {
    sums.push_back(w4a16_sum(&x[i / c.n * stride], b, i % c.n, c.k));
    pair_sums.push_back(w4a16_pair_sum(&x[i / c.n * stride], b, i % c.n, c.k));
  }
  const std::vector<uint8_t> wanted = finish(c, sums, nullptr, b, bias);
  problem.a_packed = nullptr;
  problem.a_row_stride = stride;
  problem.a = x.data();
  problem.a_dtype = DType::kFloat32;
  run_everywhere(c, problem, wanted, wanted, "W4A16 float32");
  std::vector<uint16_t> half(x.size());
  for (size_t i = 0; i < x.size(); ++i) half[i] = float16_of(x[i]);
  problem.a = half.data();
  problem.a_dtype = DType::kFloat16;
  run_everywhere(c, problem, wanted, wanted, "W4A16 float16");
  for (size_t i = 0; i < x.size(); ++i) half[i] = bfloat16_of(x[i]);
  problem.a_dtype = DType::kBFloat16;
  run_everywhere(c, problem, wanted, finish(c, pair_sums, nullptr, b, bias), "W4A16 bfloat16");
}

// Activations of any bits: subnormal, huge, infinite, NaN; every width of a block and both paths.
void test_any_bfloat16(int64_t m, int64_t n, int64_t k, bool normal_scales, uint32_t seed) {
  const Case c{m, n, k, DType::kFloat32, false, false, false};
  std::mt19937 random(seed);
  Quantized b(random, n, k, false, false);
  if (normal_scales) {
    for (uint8_t& byte : b.scale) byte = static_cast<uint8_t>(8 + random() % 0x77);
  }
  const std::vector<uint8_t> tiles = make_tiles(b, n, k);
  std::vector<uint16_t> bits(static_cast<size_t>(m * k));
  std::vector<float> x(bits.size()), sums, pair_sums;
  for (size_t i = 0; i < bits.size(); ++i) {
    // Rows of four kinds, so that not every sum is NaN: tiny, finite, finite, any.
    const size_t kind = i / static_cast<size_t>(k) % 4;
    const uint32_t exponent = kind == 0 ? random() % 3 : random() % (kind == 3 ? 256 : 255);
    bits[i] = static_cast<uint16_t>((random() & 1) << 15 | exponent << 7 | random() % 128);
    x[i] = bits_float(static_cast<uint32_t>(bits[i]) << 16);
  }
  for (int64_t i = 0; i < m * n; ++i) {
    sums.push_back(w4a16_sum(&x[static_cast<size_t>(i / n * k)], b, i % n, k));
    pair_sums.push_back(w4a16_pair_sum(&x[static_cast<size_t>(i / n * k)], b, i % n, k));
  }
  GemmProblem problem;
  problem.m = m;
  problem.n = n;
  problem.k = k;
  problem.b_tiles = tiles.data();
  problem.b_global_scale = b.global.data();
  problem.out_dtype = c.out_dtype;
  problem.a = bits.data();
  problem.a_dtype = DType::kBFloat16;
  problem.a_row_stride = k;
  run_everywhere(c, problem, finish(c, sums, nullptr, b, {}), finish(c, pair_sums, nullptr, b, {}), "any bfloat16");
}

void test_bad_arguments() {
  const auto refused = [](const GemmProblem& problem, const char* what) {
    try {
      cpu::gemm(problem);
    } catch (const Error&) {
      return;
    }
    expect(false, std::string("not refused: ") + what);
  };
  std::mt19937 random(7);
  Quantized a(random, 2, 32, false, false);
  const Quantized b(random, 20, 32, false, false);
  const std::vector<uint8_t> tiles = make_tiles(b, 20, 32);
  std::vector<float> out(40);
  GemmProblem good;
  good.m = 2;
  good.n = 20;
  good.k = 32;
  good.a_packed = a.packed.data();
  good.a_scale = a.scale.data();
  good.a_global_scale = a.global.data();
  good.b_tiles = tiles.data();
  good.b_global_scale = b.global.data();
  good.out = out.data();
  good.out_dtype = DType::kFloat32;
  cpu::gemm(good);
  const auto with = [&](auto change) {
    GemmProblem problem = good;
    change(problem);
    return problem;
  };
  refused(with([](GemmProblem& p) { p.k = 24; }), "K = 24");
  refused(with([](GemmProblem& p) { p.m = -1; }), "M = -1");
  refused(with([](GemmProblem& p) { p.out = nullptr; }), "no output");
  refused(with([](GemmProblem& p) { p.b_tiles = nullptr; }), "no weights");
  refused(with([](GemmProblem& p) { p.b_global_scale = nullptr; }), "no global scale");
  refused(with([](GemmProblem& p) { p.a_global_scale = nullptr; }), "no activation global scale");
  refused(with([](GemmProblem& p) { p.a_scale = nullptr; }), "no activation scale");
  refused(with([&](GemmProblem& p) { p.a = out.data(); }), "two kinds of activations");
  a.scale[3] |= 0x80;
  refused(good, "a negative activation scale");
}

}  // namespace

int run_gemm_tests() {
  failures = 0;
  int cases = 0;
  for (const int64_t m : {0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 33, 64, 100, 257}) {
    for (const int64_t n : {1, 15, 16, 17, 33, 100}) {
      for (const int64_t k : {0, 16, 48, 64, 80, 832, 1040}) {
        const bool slow = m * n * k > 3000000;
        if (slow && cases % 5 != 0) {
          ++cases;
          continue;
        }
        const auto dtype = static_cast<DType>(cases % 3);
        test_case({m, n, k, dtype, cases % 2 == 0, cases % 5 < 2, cases % 11 == 0}, static_cast<uint32_t>(cases));
        ++cases;
      }
    }
  }
  test_case({3, 700, 2048, DType::kBFloat16, true, true, false}, 1000);  // enough work for a second thread
  test_case({1, 1500, 2064, DType::kFloat16, false, false, true}, 1001);
  test_case({70, 300, 80, DType::kFloat32, true, false, false}, 1002);  // more panels than take turns at once
  for (int64_t m = 1; m <= 20; ++m) {
    test_any_bfloat16(m, 33, 192, m % 2 == 0, static_cast<uint32_t>(m));
    ++cases;
  }
  test_bad_arguments();
  std::printf("gemm: %d cases, %d failures\n", cases + 3, failures);
  return failures;
}
