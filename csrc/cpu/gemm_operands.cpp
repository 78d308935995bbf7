#include "gemm_operands.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "gemm_kernels.h"
#include "nvfp4/errors.h"
#include "nvfp4/layout.h"

namespace nvfp4::cpu {
namespace {

// Both codes of a packed byte at once: [0] signed, [1] plus 12; the low nibble comes first in memory.
struct PairTables {
  uint16_t codes[2][256];
  int8_t sum[256];
  PairTables() {
    for (int byte = 0; byte < 256; ++byte) {
      const int low = kTwiceE2M1[byte & 15];
      const int high = kTwiceE2M1[byte >> 4];
      for (int biased = 0; biased < 2; ++biased) {
        const uint8_t pair[2] = {static_cast<uint8_t>(low + kCodeOffset * biased),
                                 static_cast<uint8_t>(high + kCodeOffset * biased)};
        memcpy(&codes[biased][byte], pair, sizeof(pair));
      }
      sum[byte] = static_cast<int8_t>(low + high);
    }
  }
};

const PairTables& pair_tables() {
  static const PairTables tables;
  return tables;
}

float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t rest = half & 0x7FFFu;
  if (rest >= 0x7C00u) return bits_float(sign | 0x7F800000u | (rest & 0x3FFu) << 13);
  return bits_float(sign | float_bits(bits_float(rest << 13) * bits_float((127u + 112u) << 23)));
}

float load_float(const void* data, DType dtype, int64_t index) {
  if (dtype == DType::kFloat32) return static_cast<const float*>(data)[index];
  const uint16_t bits = static_cast<const uint16_t*>(data)[index];
  return dtype == DType::kBFloat16 ? bits_float(static_cast<uint32_t>(bits) << 16) : half_to_float(bits);
}

}  // namespace

Scratch::~Scratch() { operator delete(data_, std::align_val_t{64}); }

uint8_t* Scratch::reserve(int64_t bytes) {
  if (bytes > capacity_) {
    operator delete(data_, std::align_val_t{64});
    data_ = nullptr;
    capacity_ = 0;
    data_ = static_cast<uint8_t*>(operator new(static_cast<size_t>(bytes), std::align_val_t{64}));
    capacity_ = bytes;
  }
  return data_;
}

void expand_tokens(const GemmProblem& problem, int64_t first, int width, int64_t first_tile, int64_t tile_count,
                   bool unsigned_codes, int32_t offset_bias, uint8_t* block) {
  const PairTables& tables = pair_tables();
  const uint16_t* codes = tables.codes[unsigned_codes ? 1 : 0];
  const int64_t row_groups = problem.k / kGroupSize;
  const int64_t first_group = first_tile * kTileGroups;
  const int64_t padded = tile_count * kTileGroups;
  const int64_t groups = std::min(padded, row_groups - first_group);
  const int64_t step = token_group_bytes(width);
  uint8_t signs = 0;
  for (int t = 0; t < width; ++t) {
    const uint8_t* packed = problem.a_packed + ((first + t) * row_groups + first_group) * 8;
    const uint8_t* scale = problem.a_scale + (first + t) * row_groups + first_group;
    for (int64_t g = 0; g < groups; ++g) {
      uint8_t* out = block + g * step;
      uint16_t pairs[8];
      int32_t sum = 0;
      for (int i = 0; i < 8; ++i) {
        pairs[i] = codes[packed[8 * g + i]];
        sum += tables.sum[packed[8 * g + i]];
      }
      memcpy(out + 16 * t, pairs, sizeof(pairs));
      const float s_a = e4m3_to_float(scale[g]) * bits_float(kActivationScaleBits);
      memcpy(out + 16 * width + 4 * t, &s_a, sizeof(s_a));
      const int32_t offset = offset_bias - kCodeOffset * sum;
      memcpy(out + 20 * width + 4 * t, &offset, sizeof(offset));
      signs |= scale[g];
    }
  }
  // A zero scale makes the padding's terms zero whatever its codes are.
  memset(block + groups * step, 0, static_cast<size_t>((padded - groups) * step));
  check(signs < 0x80, "activation block scales: got a byte with its sign bit set in rows ", first, " to ",
        first + width - 1, ", wanted e4m3 scales >= 0; quantize the activations again");
}

void widen_tokens(const GemmProblem& problem, int64_t first, int width, int64_t first_tile, int64_t tile_count,
                  float* block) {
  constexpr int kOrder[4] = {0, 2, 1, 3};
  const int64_t padded = tile_count * kTileCols;
  const int64_t columns = std::min(padded, problem.k - first_tile * kTileCols);
  for (int t = 0; t < width; ++t) {
    const int64_t row = (first + t) * problem.a_row_stride + first_tile * kTileCols;
    for (int64_t column = 0; column < columns; column += 4) {
      float* out = block + column * width + 4 * t;
      for (int i = 0; i < 4; ++i) out[i] = load_float(problem.a, problem.a_dtype, row + column + kOrder[i]);
    }
  }
  memset(block + columns * width, 0, sizeof(float) * static_cast<size_t>((padded - columns) * width));
}

void copy_tokens(const GemmProblem& problem, int64_t first, int width, int64_t first_tile, int64_t tile_count,
                 uint8_t* block) {
  constexpr int64_t kFour = 4 * int64_t{sizeof(uint16_t)};
  const int64_t padded = tile_count * kTileCols;
  const int64_t columns = std::min(padded, problem.k - first_tile * kTileCols);
  const auto* x = static_cast<const uint16_t*>(problem.a) + first * problem.a_row_stride + first_tile * kTileCols;
  for (int64_t column = 0; column < columns; column += 4) {
    for (int t = 0; t < width; ++t, block += kFour) {
      uint64_t four;
      memcpy(&four, x + t * problem.a_row_stride + column, kFour);
      const uint64_t outer = four & 0xFFFF00000000FFFFu;  // columns 0 and 3 stay, 1 and 2 change places
      four = outer | (four & 0xFFFF0000u) << 16 | (four >> 16 & 0xFFFF0000u);
      memcpy(block, &four, kFour);
    }
  }
  memset(block, 0, static_cast<size_t>((padded - columns) / 4 * width * kFour));
}

void write_outputs(const GemmProblem& problem, const GemmKernels& kernels, int64_t first_token, int width,
                   int64_t first_row, int rows, const float* sums, int64_t sums_per_token) {
  const bool per_row = problem.b_global_scale_per_row;
  float bias[kTileRows] = {}, row_alpha[kTileRows];
  Epilogue epilogue{nullptr, 1.0f, per_row ? row_alpha : nullptr, problem.bias ? bias : nullptr, problem.out_dtype};
  if (problem.bias != nullptr) {
    for (int r = 0; r < rows; ++r) bias[r] = load_float(problem.bias, problem.bias_dtype, first_row + r);
  }
  const int64_t element = problem.out_dtype == DType::kFloat32 ? 4 : 2;
  for (int t = 0; t < width; ++t, sums += sums_per_token) {
    const int64_t token = first_token + t;
    const double g_a =
        problem.a_packed == nullptr ? 1.0 : problem.a_global_scale[problem.a_global_scale_per_row ? token : 0];
    const auto alpha = [&](int64_t row) { return static_cast<float>(1.0 / (g_a * problem.b_global_scale[row])); };
    epilogue.alpha = alpha(0);
    for (int r = 0; per_row && r < kTileRows; ++r) row_alpha[r] = alpha(first_row + (r < rows ? r : 0));
    if (sums_per_token > kTileRows) epilogue.second = sums + kTileRows;
    uint8_t* out = static_cast<uint8_t*>(problem.out) + (token * problem.n + first_row) * element;
    kernels.finish(sums, epilogue, rows, out);
  }
}

}  // namespace nvfp4::cpu
