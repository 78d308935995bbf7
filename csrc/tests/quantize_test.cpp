// quantize() as a whole: random problems against the definition, the special values, and bad arguments.
#include <random>

#include "nvfp4/layout.h"
#include "quantize_test_support.h"

int run_quantize_tests();
int run_quantize_exhaustive_tests();
int run_dequantize_tests();

namespace {

using namespace nvfp4;
using namespace nvfp4::test;

Counter counter;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr uint8_t kPoison = 0xA5;

struct Case {
  QuantizeProblem problem;
  std::vector<uint8_t> x;
  std::vector<float> global_scale;  // given ones, and one more that must stay as it is
  std::string name;
};

struct Result {
  std::vector<uint8_t> packed, scale;
  std::vector<float> global_scale;
  bool operator==(const Result& other) const {
    return packed == other.packed && scale == other.scale && global_scale.size() == other.global_scale.size() &&
           std::memcmp(global_scale.data(), other.global_scale.data(), 4 * global_scale.size()) == 0;
  }
};

// Outputs full of poison, one element longer than they need to be.
Result blank(const Case& c) {
  const QuantizeProblem& p = c.problem;
  const bool plain = p.scale_layout == ScaleLayout::kPlain;
  const int64_t scales = plain ? p.rows * (p.cols / 16) : swizzled_bytes(p.rows, p.cols / 16);
  return {std::vector<uint8_t>(p.rows * p.cols / 2 + 1, kPoison), std::vector<uint8_t>(scales + 1, kPoison),
          c.global_scale};
}

bool is_per_row(GlobalScale mode) { return mode == GlobalScale::kGivenRow || mode == GlobalScale::kComputeRow; }

Result expected(const Case& c) {
  const QuantizeProblem& p = c.problem;
  Result r = blank(c);
  const int64_t groups = p.cols / 16;
  if (p.scale_layout == ScaleLayout::kSwizzled128x4) std::fill(r.scale.begin(), r.scale.end() - 1, uint8_t{0});
  auto value = [&](int64_t row, int64_t col) { return element(c.x, p.dtype, row * p.row_stride + col); };
  auto finite_amax = [&](int64_t begin, int64_t end) {
    float amax = 0;
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t col = 0; col < p.cols; ++col) {
        if (std::isfinite(value(row, col))) amax = std::fmax(amax, std::fabs(value(row, col)));
      }
    }
    return amax;
  };
  if (p.mode == GlobalScale::kComputeTensor) {
    r.global_scale[0] = expected_global_scale(finite_amax(0, p.rows), p.scheme, p.dtype);
  }
  for (int64_t row = 0; row < p.rows; ++row) {
    float& global_scale = r.global_scale[is_per_row(p.mode) ? row : 0];
    if (p.mode == GlobalScale::kComputeRow) {
      global_scale = expected_global_scale(finite_amax(row, row + 1), p.scheme, p.dtype);
    }
    for (int64_t g = 0; g < groups; ++g) {
      float amax = 0;
      for (int64_t i = 0; i < 16; ++i) {
        const float magnitude = std::fabs(value(row, 16 * g + i));
        amax = magnitude != magnitude || amax != amax ? NAN : std::fmax(amax, magnitude);
      }
      const uint8_t scale = expected_scale(amax, global_scale, p.scheme, p.dtype);
      const bool plain = p.scale_layout == ScaleLayout::kPlain;
      r.scale[plain ? row * groups + g : swizzled_offset(row, g, groups)] = scale;
      const float step = e4m3_to_float(scale) / global_scale;
      for (int64_t i = 0; i < 16; i += 2) {
        const int even = expected_code(value(row, 16 * g + i), step, p.scheme);
        const int odd = expected_code(value(row, 16 * g + i + 1), step, p.scheme);
        r.packed[(row * p.cols + 16 * g + i) / 2] = static_cast<uint8_t>(even | odd << 4);
      }
    }
  }
  return r;
}

void check_case(const Case& c) {
  const Result wanted = expected(c);
  for_each_isa([&](const std::string& isa) {
    for (const int threads : {1, 2}) {
      Result got = blank(c);
      QuantizeProblem p = c.problem;
      p.x = c.x.data();
      p.packed = got.packed.data();
      p.scale = got.scale.data();
      p.global_scale = got.global_scale.data();
      cpu::quantize(p, threads);
      counter.values += p.rows * p.cols;
      counter.expect(got == wanted, c.name + ": " + isa + ", " + std::to_string(threads) + " threads");
    }
  });
}

float random_value(std::mt19937& random, int kind) {
  const float uniform = static_cast<float>(random()) / 2147483648.0f - 1.0f;
  switch (kind) {
    case 0:
      return uniform;
    case 1:  // heavy tails
      return uniform / (0.001f + std::fabs(uniform) * static_cast<float>(random() % 1000));
    case 2:  // ties: the finest grid of the format, times two
      return static_cast<float>(static_cast<int>(random() % 97) - 48) * 0.125f;
    case 3:  // many binades, subnormals included
      return std::ldexp(uniform, static_cast<int>(random() % 260) - 150);
    case 4:  // mostly zeros of both signs
      return random() % 8 ? (random() % 2 ? 0.0f : -0.0f) : uniform;
    default:  // infinities and NaN
      return random() % 40 ? uniform : random() % 3 ? (random() % 2 ? kInfinity : -kInfinity) : NAN;
  }
}

Case random_case(std::mt19937& random, int number) {
  constexpr int64_t kRows[] = {0, 1, 2, 3, 5, 17, 33, 127, 128, 130};
  constexpr int64_t kGroups[] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 40, 65};
  Case c;
  QuantizeProblem& p = c.problem;
  p.rows = kRows[random() % std::size(kRows)];
  p.cols = 16 * kGroups[random() % std::size(kGroups)];
  p.dtype = static_cast<DType>(random() % 3);
  p.mode = static_cast<GlobalScale>(random() % 4);
  p.scheme = is_per_row(p.mode) ? Scheme::kNvfp4 : static_cast<Scheme>(random() % 2);
  p.scale_layout = static_cast<ScaleLayout>(random() % 2);
  p.row_stride = p.cols + static_cast<int64_t>(random() % 3) * 5;
  const int kind = number % 6;
  c.x.resize(static_cast<size_t>((p.rows * p.row_stride + 1) * element_bytes(p.dtype)));
  for (int64_t i = 0; i < p.rows * p.row_stride; ++i) set_element(c.x, p.dtype, i, random_value(random, kind));
  for (int64_t i = 0; i <= (is_per_row(p.mode) ? p.rows : 1); ++i) {
    c.global_scale.push_back(
        std::ldexp(1.0f + static_cast<float>(random() % 4096) / 4096, static_cast<int>(random() % 24) - 6));
  }
  c.name = "case " + std::to_string(number) + " [" + std::to_string(p.rows) + ", " + std::to_string(p.cols) + "] " +
           name_of(p.dtype) + " mode " + std::to_string(static_cast<int>(p.mode)) + " scheme " +
           std::to_string(static_cast<int>(p.scheme)) + " layout " + std::to_string(static_cast<int>(p.scale_layout));
  return c;
}

// The test vector of formats.md, Appendix A, made by compressed-tensors.
void test_appendix_vector() {
  const float first[] = {6, .25, .75, 1.25, 1.75, 2.5, 3.5, 5, -.25, -.75, -1.25, -1.75, -2.5, -3.5, -5, -6};
  Case c;
  c.x.resize(4 * 64);
  for (int i = 0; i < 16; ++i) {
    set_element(c.x, DType::kFloat32, i, first[i]);
    set_element(c.x, DType::kFloat32, 32 + i, i % 2 ? -3.0f : 3.0f);
    set_element(c.x, DType::kFloat32, 48 + i, 1e-6f);
  }
  for_each_isa([&](const std::string& isa) {
    uint8_t packed[32], scale[4];
    float global_scale = 0;
    QuantizeProblem p{
        c.x.data(),          DType::kFloat32, 4,      16,   16, GlobalScale::kComputeTensor, Scheme::kCompressedTensors,
        ScaleLayout::kPlain, &global_scale,   packed, scale};
    cpu::quantize(p, 1);
    const uint8_t wanted[32] = {0x07, 0x22, 0x44, 0x66, 0xa8, 0xca, 0xec, 0xfe, 0, 0, 0, 0, 0, 0, 0, 0,
                                0xf7, 0xf7, 0xf7, 0xf7, 0xf7, 0xf7, 0xf7, 0xf7, 0, 0, 0, 0, 0, 0, 0, 0};
    const uint8_t wanted_scale[4] = {0x7E, 0x20, 0x76, 0x20};
    counter.values += 64;
    counter.expect(global_scale == 448.0f && !std::memcmp(packed, wanted, 32) && !std::memcmp(scale, wanted_scale, 4),
                   isa + ": the vector of Appendix A");
  });
}

void test_bad_arguments() {
  float x[32] = {}, global_scale[2] = {1, 1};
  uint8_t packed[16], scale[2];
  const QuantizeProblem good{x,
                             DType::kFloat32,
                             2,
                             16,
                             16,
                             GlobalScale::kGivenRow,
                             Scheme::kNvfp4,
                             ScaleLayout::kPlain,
                             global_scale,
                             packed,
                             scale};
  auto expect = [&](const std::string& part, auto change, int threads = 0) {
    QuantizeProblem p = good;
    change(p);
    counter.expect_error([&] { cpu::quantize(p, threads); }, part);
  };
  expect("slice to 16, the nearest", [](QuantizeProblem& p) { p.cols = 24; });
  expect("slice to 32, the nearest", [](QuantizeProblem& p) { p.cols = 25; });
  expect("slice to 16, the nearest", [](QuantizeProblem& p) { p.cols = 1; });
  expect("cols: got -16", [](QuantizeProblem& p) { p.cols = -16; });
  expect("rows: got -1", [](QuantizeProblem& p) { p.rows = -1; });
  expect("rows * cols", [](QuantizeProblem& p) { p.rows = int64_t{1} << 61; });
  expect("row_stride: got -16", [](QuantizeProblem& p) { p.row_stride = -16; });
  expect("rows * row_stride", [](QuantizeProblem& p) { p.row_stride = INT64_MAX; });
  expect("x: got a null pointer", [](QuantizeProblem& p) { p.x = nullptr; });
  expect("packed: got a null pointer", [](QuantizeProblem& p) { p.packed = nullptr; });
  expect("scale: got a null pointer", [](QuantizeProblem& p) { p.scale = nullptr; });
  expect("global_scale: got a null pointer", [](QuantizeProblem& p) { p.global_scale = nullptr; });
  expect("dtype: got code 3", [](QuantizeProblem& p) { p.dtype = static_cast<DType>(3); });
  expect("mode: got code 4", [](QuantizeProblem& p) { p.mode = static_cast<GlobalScale>(4); });
  expect("scheme: got code -1", [](QuantizeProblem& p) { p.scheme = static_cast<Scheme>(-1); });
  expect("scale_layout: got code 2", [](QuantizeProblem& p) { p.scale_layout = static_cast<ScaleLayout>(2); });
  expect("compressed-tensors with", [](QuantizeProblem& p) { p.scheme = Scheme::kCompressedTensors; });
  expect("threads", [](QuantizeProblem&) {}, -1);
  for (const float bad : {0.0f, -1.0f, kInfinity, static_cast<float>(NAN)}) {
    global_scale[1] = bad;
    expect("global_scale[1]", [](QuantizeProblem&) {});
  }
  QuantizeProblem empty = good;
  empty.x = nullptr;
  empty.packed = empty.scale = nullptr;
  empty.rows = 0;
  empty.global_scale = nullptr;
  cpu::quantize(empty);
}

}  // namespace

int run_quantize_tests() {
  counter = {};
  std::mt19937 random(7);
  constexpr int kCases = 600;
  for (int i = 0; i < kCases; ++i) check_case(random_case(random, i));
  test_appendix_vector();
  test_bad_arguments();
  std::printf("quantize: %lld values, %d failures\n", static_cast<long long>(counter.values), counter.failures);
  return counter.failures + run_quantize_exhaustive_tests() + run_dequantize_tests();
}
