// The core's own test program: no torch, no Python. Exits with 1 when anything failed.
#include <cstdio>

#include "nvfp4/cpu.h"

int run_quantize_tests();
int run_layout_tests();
int run_gemm_tests();
int run_gemm_call_tests();

int main() {
  std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);  // what was printed before an abort is worth having
  for (const nvfp4::cpu::Isa& isa : nvfp4::cpu::isas()) {
    std::printf("%s: %s\n", isa.name.c_str(),
                !isa.compiled   ? "not compiled"
                : isa.supported ? "tested"
                                : "not supported");
  }
  int failures = run_layout_tests();
  failures += run_quantize_tests();
  failures += run_gemm_tests();
  failures += run_gemm_call_tests();
  std::printf("%s: %d failures\n", failures == 0 ? "passed" : "FAILED", failures);
  return failures == 0 ? 0 : 1;
}
