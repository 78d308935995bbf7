// The quantise kernels against the definition on every 16-bit value times every scale code, and on float32 values
// around every rounding boundary. The block maxima are handed to the kernels, so that the values need not fit their
// scale.
#include <random>

#include "cpu/quantize.h"
#include "quantize_test_support.h"

int run_quantize_exhaustive_tests();

namespace {

using namespace nvfp4;
using namespace nvfp4::test;

Counter counter;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Case {
  DType dtype;
  Scheme scheme;
  float global_scale;
  std::vector<uint8_t> x;
  std::vector<float> amax;  // one a block
};

// A block with a NaN has a NaN for its largest magnitude, so NaN may only stand in such blocks: elsewhere they become
// zero.
void remove_impossible_nans(Case& c) {
  for (size_t i = 0; i < 16 * c.amax.size(); ++i) {
    const float x = element(c.x, c.dtype, static_cast<int64_t>(i));
    if (x != x && c.amax[i / 16] == c.amax[i / 16]) set_element(c.x, c.dtype, static_cast<int64_t>(i), 0);
  }
}

void run_case(Case c, bool with_portable) {
  remove_impossible_nans(c);
  const auto groups = static_cast<int64_t>(c.amax.size());
  std::vector<uint8_t> scale(c.amax.size()), packed(8 * c.amax.size(), 0);
  for (int64_t g = 0; g < groups; ++g) {
    scale[g] = expected_scale(c.amax[g], c.global_scale, c.scheme, c.dtype);
    const float step = e4m3_to_float(scale[g]) / c.global_scale;
    for (int64_t i = 0; i < 16; ++i) {
      const uint8_t code = expected_code(element(c.x, c.dtype, 16 * g + i), step, c.scheme);
      packed[8 * g + i / 2] = static_cast<uint8_t>(packed[8 * g + i / 2] | code << (i % 2 ? 4 : 0));
    }
  }
  std::vector<float> padded(c.amax);
  padded.resize(c.amax.size() + cpu::kAmaxPadding);
  for (int i = with_portable ? 0 : 1; i < cpu::kInstructionSets; ++i) {
    const auto isa = static_cast<cpu::InstructionSet>(i);
    if (!cpu::isa_compiled(isa) || !cpu::isa_supported(isa)) continue;
    std::vector<uint8_t> got_scale(scale.size() + 1, 0xA5), got_packed(packed.size() + 1, 0xA5);
    cpu::quantize_kernels(isa).codes(c.dtype, {c.x.data(), c.x.data(), groups, padded.data(), c.global_scale, c.scheme,
                                               got_packed.data(), got_scale.data()});
    counter.values += 16 * groups;
    const std::string what = std::string(cpu::isa_name(isa)) + " " + name_of(c.dtype) + " scheme " +
                             std::to_string(static_cast<int>(c.scheme)) + " G bits " +
                             std::to_string(float_bits(c.global_scale)) + " first amax bits " +
                             std::to_string(float_bits(c.amax[0]));
    counter.expect(got_scale.back() == 0xA5 && got_packed.back() == 0xA5, what + ": wrote past the end");
    got_scale.pop_back();
    got_packed.pop_back();
    counter.expect(got_scale == scale, what + ": scales differ");
    counter.expect(got_packed == packed, what + ": codes differ");
  }
}

// The block maximum that gives every scale code; code 0 is never written, so amax 0 stands for it.
float amax_of_code(int code, float global_scale) {
  return code == 0 ? 0.0f : e4m3_to_float(static_cast<uint8_t>(code)) / global_scale * 6.0f;
}

void test_all_16_bit_values(DType dtype, Scheme scheme, float global_scale, bool with_portable) {
  Case c{dtype, scheme, global_scale, std::vector<uint8_t>(2 * 65536), {}};
  for (uint32_t code = 0; code < 65536; ++code) {
    const auto value = static_cast<uint16_t>(code);
    std::memcpy(c.x.data() + 2 * code, &value, 2);
  }
  for (int code = 0; code <= kE4M3Nan; ++code) {
    c.amax.assign(65536 / 16, amax_of_code(code, global_scale));
    run_case(c, with_portable);
  }
}

// Values within three units in the last place of every boundary, of both signs, and the ends of the number line.
void test_float_boundaries(Scheme scheme, float global_scale) {
  Case c{DType::kFloat32, scheme, global_scale, {}, {}};
  for (int code = 0; code <= kE4M3Nan; ++code) {
    const float amax = amax_of_code(code, global_scale);
    const float step = e4m3_to_float(expected_scale(amax, global_scale, scheme, c.dtype)) / global_scale;
    std::vector<float> values = {
        0.0f, kInfinity, bits_float(1), bits_float(2), std::ldexp(step, -149), std::ldexp(step, -150)};
    for (const float boundary : {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f, 6.0f}) {
      const uint32_t middle = float_bits(boundary * step) & 0x7FFFFFFF;
      for (int ulp = -3; ulp <= 3; ++ulp)
        values.push_back(bits_float((middle + static_cast<uint32_t>(ulp)) & 0x7FFFFFFF));
    }
    while (values.size() % 8 != 0) values.push_back(step);
    for (const float value : values) {
      for (const float x : {value, -value}) {
        c.x.resize(c.x.size() + 4);
        set_element(c.x, c.dtype, static_cast<int64_t>(c.x.size() / 4) - 1, x);
      }
    }
    c.amax.resize(c.x.size() / 64, amax);
  }
  run_case(c, true);
}

// Neighbouring blocks with different scales, NaN among them, in rows of every length around the strips' ends.
void test_mixed_blocks(std::mt19937& random, DType dtype, Scheme scheme) {
  for (int64_t groups = 0; groups <= 70; ++groups) {
    Case c{dtype, scheme, 700.0f * static_cast<float>(1 + random() % 3), {}, {}};
    c.x.resize(static_cast<size_t>(groups * 16 * element_bytes(dtype)));
    for (uint8_t& byte : c.x) byte = static_cast<uint8_t>(random());
    for (int64_t g = 0; g < groups; ++g) {
      const int code = static_cast<int>(random() % 127);
      c.amax.push_back(groups % 3 == 0 && random() % 16 == 0 ? NAN : amax_of_code(code, c.global_scale));
    }
    if (groups > 0) run_case(c, true);
  }
}

}  // namespace

int run_quantize_exhaustive_tests() {
  counter = {};
  std::mt19937 random(20240607);
  // Powers of two, mantissas of all ones and all zeros but one, the ends of what the vector code takes, and beyond
  // them.
  std::vector<float> global_scales = {1.0f,     2688.0f,   0x1.fffffep8f, 0x1.000002p9f, 0x1.55554p7f,
                                      0x1p-14f, 0x1p-111f, 0x1p91f,       0x1.000002p91f};
  for (const Scheme scheme : {Scheme::kNvfp4, Scheme::kCompressedTensors}) {
    for (size_t i = 0; i < global_scales.size(); ++i) {
      test_all_16_bit_values(DType::kBFloat16, scheme, global_scales[i], i == 0);
      if (i % 4 == 0) test_all_16_bit_values(DType::kFloat16, scheme, global_scales[i], i == 0);
    }
    for (const float g : global_scales) test_float_boundaries(scheme, g);
    for (const float g : {0x1p-149f, 0x1.8p-130f, 0x1.fffffep-15f, 0x1.fffffep-112f, 0x1p126f, 0x1.fffffep127f}) {
      test_float_boundaries(scheme, g);
    }
    for (int i = 0; i < 300; ++i) {
      const float mantissa = bits_float(0x3F800000u | (random() & 0x7FFFFFu));
      test_float_boundaries(scheme, std::ldexp(mantissa, static_cast<int>(random() % 60) - 30));
    }
    for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16})
      test_mixed_blocks(random, dtype, scheme);
  }
  std::printf("quantize, every value: %lld values, %d failures\n", static_cast<long long>(counter.values),
              counter.failures);
  return counter.failures;
}
