// Which gemm kernel a problem gets: candidates, one validity predicate, one comparator, and a choice that names itself.
#pragma once

#include <string>

#include "cpu/isa.h"
#include "nvfp4/problem.h"

namespace nvfp4::dispatch {

enum class GemmPath {
  kStream,       // W4A4, weights decoded in registers for a block of tokens
  kPanel,        // W4A4, a panel decoded once into cache for all tokens
  kStreamFloat,  // W4A16, likewise
  kPanelFloat,   // W4A16, likewise
};

inline bool decodes_panels(GemmPath path) { return path == GemmPath::kPanel || path == GemmPath::kPanelFloat; }

struct GemmChoice {
  cpu::InstructionSet isa;
  GemmPath path;
  std::string name() const;  // such as "avx2/w4a4/stream"
};

// What an instruction set's kernels cost besides the products themselves, in units of one token's products with the
// same weights. Measured on x86 (docs/cpu-kernels.md), estimated for the others.
struct GemmCosts {
  int tokens;            // in a block: what the kernels like best; any width from 1 to this works
  double stream_decode;  // of decoding in registers, once a block of tokens
  double panel_decode;   // of decoding to cache and reading that back, once
};

// The cheapest valid path on `isa`.
GemmChoice choose_gemm(const GemmProblem& problem, cpu::InstructionSet isa, const GemmCosts& costs);

}  // namespace nvfp4::dispatch
