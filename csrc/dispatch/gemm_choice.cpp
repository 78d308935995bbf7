#include "dispatch/gemm_choice.h"

#include "nvfp4/layout.h"

namespace nvfp4::dispatch {
namespace {

// Of two candidates that cost the same the first one wins.
constexpr GemmPath kCandidates[] = {GemmPath::kPanel, GemmPath::kStream, GemmPath::kPanelFloat, GemmPath::kStreamFloat};

bool valid(GemmPath path, const GemmProblem& problem) {
  const bool floats = path == GemmPath::kStreamFloat || path == GemmPath::kPanelFloat;
  return floats == (problem.a_packed == nullptr);
}

double cost(GemmPath path, const GemmProblem& problem, const GemmCosts& costs) {
  const double blocks = static_cast<double>(ceil_div(problem.m, costs.tokens));
  return static_cast<double>(problem.m) + (decodes_panels(path) ? costs.panel_decode : blocks * costs.stream_decode);
}

}  // namespace

std::string GemmChoice::name() const {
  const char* label = "";
  switch (path) {
    case GemmPath::kStream:
      label = "/w4a4/stream";
      break;
    case GemmPath::kPanel:
      label = "/w4a4/panel";
      break;
    case GemmPath::kStreamFloat:
      label = "/w4a16/stream";
      break;
    case GemmPath::kPanelFloat:
      label = "/w4a16/panel";
      break;
  }
  return std::string(cpu::isa_name(isa)) + label;
}

GemmChoice choose_gemm(const GemmProblem& problem, cpu::InstructionSet isa, const GemmCosts& costs) {
  const GemmPath* best = nullptr;
  for (const GemmPath& path : kCandidates) {
    if (!valid(path, problem)) continue;
    if (best == nullptr || cost(path, problem, costs) < cost(*best, problem, costs)) best = &path;
  }
  return {isa, *best};
}

}  // namespace nvfp4::dispatch
