// Which instance of the SM120 matrix product runs, on how many thread blocks, and how tiles are split: every
// candidate's time by one cost model, and the least of them. No CUDA here; the same numbers on any machine.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace nvfp4::dispatch {

// Constants of a GPU. Sources: shared memory and tensor-core rate as in docs/cuda-kernels.md.
struct Gpu {
  int sms = 0;
  double clock = 0;      // Hz, under load
  double bandwidth = 0;  // bytes a second of device memory, nominal
};

struct Sm120Shape {
  const char* name;
  int tokens;  // of a tile
  int units;   // of 128 columns, of a stage
  int stages;
  int warps;         // that multiply
  bool two_kernels;  // thread blocks of two kernels fit on an SM
};

// In the order of their numbers.
const std::vector<Sm120Shape>& sm120_shapes();

struct Sm120Plan {
  int shape = 0;   // of sm120_shapes()
  int blocks = 0;  // thread blocks
  int whole = 0;   // tiles that one thread block makes alone, as many a block; the others are cut into equal pieces
  int group = 1;   // token tiles that neighbouring thread blocks share a panel over
  double seconds = 0;

  std::string bound;   // what the time is mostly: "memory", "tensor cores" or "latency"
  bool tuned = false;  // preferred by times measured on this GPU, not by the model alone
};

// Such as "256x128x128, thread blocks: 188, whole tiles: 2632, predicted 123.4 us, tensor cores".
std::string sm120_describe(const Sm120Plan& plan);

// Why a plan cannot run, or an empty string. The one predicate: the choice, the tuner and the launch all ask it.
std::string sm120_refusal(const Sm120Plan& plan, int64_t m, int64_t n, int64_t k);

// Every plan worth timing, each with its predicted time.
std::vector<Sm120Plan> sm120_candidates(int64_t m, int64_t n, int64_t k, const Gpu& gpu);

// A plan with its predicted time; also of kernels that are not ours, as if they were.
Sm120Plan sm120_predict(const Sm120Plan& plan, int64_t m, int64_t n, int64_t k, const Gpu& gpu);

// The least of them.
Sm120Plan sm120_choose(int64_t m, int64_t n, int64_t k, const Gpu& gpu);

// What a plan needs beside its operands: float32 partial sums, and counters that are zero when the product starts.
int64_t sm120_partial_bytes(const Sm120Plan& plan, int64_t m, int64_t n, int64_t k);
int64_t sm120_arrivals(const Sm120Plan& plan, int64_t m, int64_t n, int64_t k);

}  // namespace nvfp4::dispatch
