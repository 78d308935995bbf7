// dequantize() against its definition: every code times every scale byte times many global scales, in every format.
#include <random>

#include "nvfp4/layout.h"
#include "quantize_test_support.h"

int run_dequantize_tests();

namespace {

using namespace nvfp4;
using namespace nvfp4::test;

Counter counter;

float expected_value(uint8_t code, uint8_t scale, float global_scale) {
  constexpr float kMagnitudes[] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
  const float magnitude = kMagnitudes[code & 7];
  const float value = (code & 8 ? -magnitude : magnitude) * (e4m3_to_float(scale) / global_scale);
  return value != value ? bits_float(0x7FC00000u) : value;
}

void check(int64_t rows, int64_t groups, const std::vector<uint8_t>& packed, const std::vector<uint8_t>& scale,
           const std::vector<float>& global_scale, DType dtype, ScaleLayout layout, const std::string& name) {
  const bool per_row = global_scale.size() > 1;
  std::vector<uint8_t> wanted(static_cast<size_t>((rows * groups * 16 + 1) * element_bytes(dtype)), 0xA5);
  for (int64_t i = 0; i < rows * groups * 16; ++i) {
    const auto code = static_cast<uint8_t>(packed[i / 2] >> (i % 2 ? 4 : 0) & 15);
    const float value = expected_value(code, scale[i / 16], global_scale[per_row ? i / (16 * groups) : 0]);
    set_element(wanted, dtype, i, value);
  }
  std::vector<uint8_t> laid_out(scale);
  if (layout == ScaleLayout::kSwizzled128x4) {
    laid_out.resize(swizzled_bytes(rows, groups));
    cpu::swizzle_scales(scale.data(), rows, groups, laid_out.data());
  }
  for_each_isa([&](const std::string& isa) {
    for (const int threads : {1, 2}) {
      std::vector<uint8_t> got(wanted.size(), 0xA5);
      cpu::dequantize(
          {packed.data(), laid_out.data(), layout, global_scale.data(), per_row, rows, 16 * groups, got.data(), dtype},
          threads);
      counter.values += rows * groups * 16;
      counter.expect(got == wanted, "dequantize " + name + ": " + isa + " " + name_of(dtype));
    }
  });
}

// One block a scale byte, with all sixteen codes; negative and NaN scales are included.
void test_all_codes(float global_scale) {
  std::vector<uint8_t> packed, scale;
  for (int s = 0; s < 256; ++s) {
    scale.push_back(static_cast<uint8_t>(s));
    for (int pair = 0; pair < 8; ++pair) packed.push_back(static_cast<uint8_t>(2 * pair | (2 * pair + 1) << 4));
  }
  for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
    check(1, 256, packed, scale, {global_scale}, dtype, ScaleLayout::kPlain,
          "G bits " + std::to_string(float_bits(global_scale)));
  }
}

void test_random(std::mt19937& random, int64_t rows, int64_t groups) {
  std::vector<uint8_t> packed(static_cast<size_t>(8 * rows * groups)), scale(static_cast<size_t>(rows * groups));
  for (uint8_t& byte : packed) byte = static_cast<uint8_t>(random());
  for (uint8_t& byte : scale) byte = static_cast<uint8_t>(random() % 127);
  std::vector<float> global_scale(1 + (random() % 2 ? static_cast<size_t>(rows) : 0));
  for (float& g : global_scale) g = 1.0f + static_cast<float>(random() % 3000);
  for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
    for (const ScaleLayout layout : {ScaleLayout::kPlain, ScaleLayout::kSwizzled128x4}) {
      check(rows, groups, packed, scale, global_scale, dtype, layout,
            "[" + std::to_string(rows) + ", " + std::to_string(16 * groups) + "]");
    }
  }
}

void test_bad_arguments() {
  const uint8_t packed[16] = {}, scale[2] = {};
  float global_scale[2] = {1, 1}, out[32];
  const DequantizeProblem good{packed, scale, ScaleLayout::kPlain, global_scale, true, 2, 16, out, DType::kFloat32};
  auto expect = [&](const std::string& part, auto change) {
    DequantizeProblem p = good;
    change(p);
    counter.expect_error([&] { cpu::dequantize(p); }, part);
  };
  expect("multiple of 16", [](DequantizeProblem& p) { p.cols = 20; });
  expect("rows: got -2", [](DequantizeProblem& p) { p.rows = -2; });
  expect("dtype", [](DequantizeProblem& p) { p.dtype = static_cast<DType>(9); });
  expect("scale_layout", [](DequantizeProblem& p) { p.scale_layout = static_cast<ScaleLayout>(9); });
  expect("packed: got a null", [](DequantizeProblem& p) { p.packed = nullptr; });
  expect("scale: got a null", [](DequantizeProblem& p) { p.scale = nullptr; });
  expect("out: got a null", [](DequantizeProblem& p) { p.out = nullptr; });
  expect("global_scale: got a null", [](DequantizeProblem& p) { p.global_scale = nullptr; });
  global_scale[1] = 0;
  expect("global_scale[1]: got 0", [](DequantizeProblem&) {});
}

}  // namespace

int run_dequantize_tests() {
  counter = {};
  std::mt19937 random(11);
  for (const float g : {1.0f, 448.0f, 2688.0f, 0.3f, 1e-3f, 1e-30f, 1e-38f, 0x1p-149f, 1e20f, 3e38f, 0x1.fffffep8f}) {
    test_all_codes(g);
  }
  for (const int64_t rows : {0, 1, 3, 129}) {
    for (const int64_t groups : {0, 1, 5, 64}) test_random(random, rows, groups);
  }
  test_bad_arguments();
  std::printf("dequantize: %lld values, %d failures\n", static_cast<long long>(counter.values), counter.failures);
  return counter.failures;
}
