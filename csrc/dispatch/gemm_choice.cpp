#include "dispatch/gemm_choice.h"

#include "nvfp4/layout.h"

namespace nvfp4::dispatch {
namespace {

// Of two candidates that cost the same the first one wins.
constexpr GemmPath kCandidates[] = {GemmPath::kPanel, GemmPath::kStream, GemmPath::kStreamFloat};

bool valid(GemmPath path, const GemmProblem& problem) {
  const bool w4a4 = problem.a_packed != nullptr;
  return (path == GemmPath::kStreamFloat) != w4a4;
}

// Relative time of a group of one panel, in units of one token's dot product with it. Decoding costs about as much as
// one token; writing the decoded panel to cache and reading it back about as much as another.
int64_t cost(GemmPath path, const GemmProblem& problem, int tokens) {
  constexpr int64_t kDecode = 1;
  constexpr int64_t kThroughCache = 1;
  if (path == GemmPath::kPanel) return problem.m + kDecode + kThroughCache;
  return problem.m + ceil_div(problem.m, tokens) * kDecode;
}

}  // namespace

std::string GemmChoice::name() const {
  const char* label = path == GemmPath::kStream  ? "/w4a4/stream"
                      : path == GemmPath::kPanel ? "/w4a4/panel"
                                                 : "/w4a16/stream";
  return std::string(cpu::isa_name(isa)) + label;
}

GemmChoice choose_gemm(const GemmProblem& problem, cpu::InstructionSet isa, int tokens) {
  const GemmPath* best = nullptr;
  for (const GemmPath& path : kCandidates) {
    if (!valid(path, problem)) continue;
    if (best == nullptr || cost(path, problem, tokens) < cost(*best, problem, tokens)) best = &path;
  }
  return {isa, *best};
}

}  // namespace nvfp4::dispatch
