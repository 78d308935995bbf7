// What the quantise, dequantise and layout tests share: counting, and conversions that share no idea with the code
// under test.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "cpu/isa.h"
#include "nvfp4/cpu.h"
#include "nvfp4/errors.h"
#include "nvfp4/formats.h"
#include "nvfp4/problem.h"

namespace nvfp4::test {

struct Counter {
  int64_t values = 0;
  int failures = 0;

  void expect(bool condition, const std::string& what) {
    if (condition) return;
    if (++failures <= 20) std::printf("FAILED %s\n", what.c_str());
  }

  // The call has to throw nvfp4::Error with `part` in its message.
  template <typename Call>
  void expect_error(const Call& call, const std::string& part) {
    ++values;
    try {
      call();
      expect(false, "no error about: " + part);
    } catch (const Error& error) {
      expect(std::string(error.what()).find(part) != std::string::npos,
             "error '" + std::string(error.what()) + "' does not say '" + part + "'");
    }
  }
};

// Runs `call` once with every instruction set that this binary has and this CPU runs, and restores the default.
template <typename Call>
void for_each_isa(const Call& call) {
  for (const cpu::Isa& isa : cpu::isas()) {
    if (!isa.compiled || !isa.supported) continue;
    cpu::set_isa(isa.name);
    call(isa.name);
  }
  cpu::set_isa("");
}

inline int64_t element_bytes(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

// A 16-bit float of either kind from its fields; infinity stands on the grid where the next power of two would be.
inline double decode16(DType dtype, uint32_t magnitude) {
  const int mantissa_bits = dtype == DType::kBFloat16 ? 7 : 10;
  const int bias = dtype == DType::kBFloat16 ? 127 : 15;
  const int exponent = static_cast<int>(magnitude >> mantissa_bits);
  const double mantissa = magnitude & ((1u << mantissa_bits) - 1);
  const double implicit = exponent == 0 ? 0 : 1 << mantissa_bits;
  return std::ldexp(implicit + mantissa, (exponent == 0 ? 1 : exponent) - bias - mantissa_bits);
}

inline uint32_t infinity16(DType dtype) { return dtype == DType::kBFloat16 ? 0x7F80 : 0x7C00; }

// Nearest by search among all magnitudes; ties go to the even code; NaN is the canonical one.
inline uint16_t encode16(DType dtype, float x) {
  const uint32_t infinity = infinity16(dtype);
  if (x != x) return static_cast<uint16_t>(dtype == DType::kBFloat16 ? 0x7FC0 : 0x7E00);
  const uint32_t sign = std::signbit(x) ? 0x8000 : 0;
  const double magnitude = std::fabs(static_cast<double>(x));
  if (magnitude >= decode16(dtype, infinity)) return static_cast<uint16_t>(sign | infinity);
  uint32_t low = 0, high = infinity;
  while (high - low > 1) (decode16(dtype, (low + high) / 2) <= magnitude ? low : high) = (low + high) / 2;
  const double down = magnitude - decode16(dtype, low), up = decode16(dtype, high) - magnitude;
  return static_cast<uint16_t>(sign | (down < up || (down == up && low % 2 == 0) ? low : high));
}

inline float element(const std::vector<uint8_t>& data, DType dtype, int64_t index) {
  if (dtype == DType::kFloat32) {
    float x;
    std::memcpy(&x, data.data() + 4 * index, 4);
    return x;
  }
  uint16_t code;
  std::memcpy(&code, data.data() + 2 * index, 2);
  const uint32_t magnitude = code & 0x7FFFu;
  if (magnitude > infinity16(dtype)) return std::numeric_limits<float>::quiet_NaN();
  const float x = magnitude == infinity16(dtype) ? std::numeric_limits<float>::infinity()
                                                 : static_cast<float>(decode16(dtype, magnitude));
  return code & 0x8000 ? -x : x;
}

inline void set_element(std::vector<uint8_t>& data, DType dtype, int64_t index, float x) {
  if (dtype == DType::kFloat32) {
    std::memcpy(data.data() + 4 * index, &x, 4);
  } else {
    const uint16_t code = encode16(dtype, x);
    std::memcpy(data.data() + 2 * index, &code, 2);
  }
}

inline float rounded(DType dtype, float x) {
  std::vector<uint8_t> one(4);
  set_element(one, dtype, 0, x);
  return element(one, dtype, 0);
}

// The contract, element by element (DESIGN.md, section 3, and formats.md, Appendix A).
inline uint8_t expected_code(float x, float step, Scheme scheme) {
  const float quotient = x / step;
  if (scheme == Scheme::kCompressedTensors && quotient == 0) return 0;
  return float_to_e2m1(quotient);
}

inline uint8_t expected_scale(float amax, float global_scale, Scheme scheme, DType dtype) {
  const float sixth = scheme == Scheme::kCompressedTensors ? rounded(dtype, amax / 6.0f) : amax / 6.0f;
  const uint8_t code = float_to_e4m3(global_scale * sixth);
  return code == 0 ? 0x20 : code;
}

inline float expected_global_scale(float finite_amax, Scheme scheme, DType dtype) {
  float scale = 2688.0f / finite_amax;
  if (scheme == Scheme::kCompressedTensors) scale = rounded(dtype, rounded(dtype, 1.0f / finite_amax) * 2688.0f);
  return std::isfinite(scale) ? scale : 1.0f;
}

inline const char* name_of(DType dtype) {
  return dtype == DType::kFloat32 ? "float32" : dtype == DType::kFloat16 ? "float16" : "bfloat16";
}

}  // namespace nvfp4::test
