// How gemm is called rather than what it computes: from several threads, after fork(), with subnormals switched off,
// through linear(); and the pieces around it: parallel_for, the choice of instruction set, the choice of kernel, the
// probes.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "cpu/threads.h"
#include "dispatch/gemm_choice.h"
#include "nvfp4/cpu.h"
#include "nvfp4/errors.h"
#include "nvfp4/layout.h"
#include "nvfp4/probe.h"

int run_gemm_call_tests();

namespace {

using namespace nvfp4;

int failures = 0;

void expect(bool condition, const std::string& what) {
  if (condition) return;
  ++failures;
  std::printf("FAILED %s\n", what.c_str());
}

bool throws(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error&) {
    return true;
  }
  return false;
}

// A product with its operands; scales are subnormal e4m3 numbers on purpose.
struct Product {
  int64_t m, n, k;
  std::vector<uint8_t> tiles, packed, scale;
  std::vector<float> x, global;

  Product(int64_t m_, int64_t n_, int64_t k_) : m(m_), n(n_), k(k_), global{2.0f} {
    tiles.resize(static_cast<size_t>(tiles_bytes(n, k)));
    packed.resize(static_cast<size_t>(m * k / 2));
    scale.resize(static_cast<size_t>(m * k / 16));
    x.resize(static_cast<size_t>(m * k));
    uint32_t state = 12345;
    const auto next = [&] { return (state = state * 1664525u + 1013904223u) >> 16; };
    for (size_t i = 0; i < tiles.size(); ++i) tiles[i] = static_cast<uint8_t>(i % 576 < 512 ? next() : next() % 8);
    for (uint8_t& byte : packed) byte = static_cast<uint8_t>(next());
    for (uint8_t& byte : scale) byte = static_cast<uint8_t>(next() % 8);
    for (float& value : x) value = std::ldexp(static_cast<float>(next() % 255) - 127.0f, -7);
  }

  GemmProblem problem(std::vector<float>& out) const {
    out.assign(static_cast<size_t>(m * n), -1.0f);
    GemmProblem p;
    p.m = m;
    p.n = n;
    p.k = k;
    p.a_packed = packed.data();
    p.a_scale = scale.data();
    p.a_global_scale = global.data();
    p.b_tiles = tiles.data();
    p.b_global_scale = global.data();
    p.out = out.data();
    p.out_dtype = DType::kFloat32;
    return p;
  }

  std::vector<float> run(int threads) const {
    std::vector<float> out;
    cpu::gemm(problem(out), threads);
    return out;
  }
};

void test_two_threads_at_once() {
  const Product first(5, 200, 512), second(40, 90, 1040);
  const std::vector<float> wanted_first = first.run(1), wanted_second = second.run(1);
  bool same[2] = {true, true};
  std::thread one([&] {
    for (int i = 0; i < 20; ++i) same[0] &= first.run(2) == wanted_first;
  });
  std::thread two([&] {
    for (int i = 0; i < 20; ++i) same[1] &= second.run(2) == wanted_second;
  });
  one.join();
  two.join();
  expect(same[0] && same[1], "gemm from two threads at once");
}

void test_after_fork() {
  const Product product(5, 4000, 512);
  const std::vector<float> wanted = product.run(2);  // starts OpenMP's threads in the parent
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);  // a child that hangs is a failure, not a stuck test
    _exit(product.run(2) == wanted && cpu::resolve_threads(2) == 1 ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "gemm in a child of fork()");
  expect(product.run(2) == wanted, "gemm in the parent after fork()");
}

void test_subnormals_switched_off() {
#if defined(__x86_64__)
  const Product product(3, 50, 256);
  const std::vector<float> wanted = product.run(1);
  const unsigned int saved = _mm_getcsr();
  _mm_setcsr(saved | 0x8040u);
  const std::vector<float> got = product.run(1);
  const unsigned int after = _mm_getcsr();
  _mm_setcsr(saved);
  expect(got == wanted, "gemm with subnormals switched off by the caller");
  expect((after & 0x8040u) == 0x8040u, "gemm leaves the caller's floating-point mode alone");
#endif
}

void test_linear() {
  for (const bool per_row : {false, true}) {
    const Product product(7, 33, 80);
    std::vector<uint8_t> packed(product.packed.size()), scale(product.scale.size());
    std::vector<float> global(7), wanted, got;
    QuantizeProblem quantize;
    quantize.x = product.x.data();
    quantize.rows = product.m;
    quantize.cols = quantize.row_stride = product.k;
    quantize.mode = per_row ? GlobalScale::kComputeRow : GlobalScale::kComputeTensor;
    GemmProblem right = product.problem(got);
    right.a_packed = right.a_scale = nullptr;
    right.a_global_scale = nullptr;
    cpu::linear(quantize, right, 1);
    quantize.packed = packed.data();
    quantize.scale = scale.data();
    quantize.global_scale = global.data();
    cpu::quantize(quantize, 1);
    GemmProblem apart = product.problem(wanted);
    apart.a_packed = packed.data();
    apart.a_scale = scale.data();
    apart.a_global_scale = global.data();
    apart.a_global_scale_per_row = per_row;
    cpu::gemm(apart, 1);
    expect(got == wanted, std::string("linear is quantize and gemm, ") + (per_row ? "per row" : "per tensor"));
    quantize.rows = 6;
    expect(throws([&] { cpu::linear(quantize, right, 1); }), "linear with the wrong number of rows");
  }
}

void test_parallel_for() {
  for (const int64_t count : {0, 1, 2, 7, 1000}) {
    for (const int threads : {1, 2, 5}) {
      std::vector<int> hits(static_cast<size_t>(count));
      cpu::parallel_for(count, threads, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) ++hits[static_cast<size_t>(i)];
      });
      expect(std::all_of(hits.begin(), hits.end(), [](int hit) { return hit == 1; }), "parallel_for covers its range");
    }
  }
  expect(throws([] { cpu::parallel_for(100, 2, 1, [](int64_t, int64_t) { throw Error("from a range"); }); }),
         "parallel_for rethrows");
  expect(throws([] { cpu::resolve_threads(-1); }), "a negative number of threads");
}

void test_choices() {
  expect(throws([] { cpu::set_isa("sse9"); }), "an unknown instruction set");
  cpu::set_isa("portable");
  expect(cpu::isa() == "portable", "set_isa takes effect");
  cpu::set_isa("");
  const uint8_t byte = 0;
  GemmProblem problem;
  problem.n = problem.k = 64;
  const auto name = [&](int64_t m) {
    problem.m = m;
    return dispatch::choose_gemm(problem, cpu::InstructionSet::kAvx2, {4, 1.0, 2.0}).name();
  };
  expect(name(1) == "avx2/w4a16/stream" && name(64) == "avx2/w4a16/panel", "W4A16 streams for a few tokens");
  problem.a_packed = &byte;
  expect(name(1) == "avx2/w4a4/stream" && name(4) == "avx2/w4a4/stream", "a few tokens stream");
  expect(name(16) == "avx2/w4a4/panel" && name(257) == "avx2/w4a4/panel", "many tokens share decoded panels");
}

void test_probes() {
  const std::vector<uint8_t> buffer(1 << 20, 1);
  expect(cpu::dot_loop(10, 1) > 0 && cpu::read_bandwidth(buffer.data(), 1 << 20, 1) > 0, "probes give speeds");
  expect(throws([] { cpu::dot_loop(0, 1); }), "dot_loop of nothing");
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    expect(cpu::float_dot_loop(10, dtype, 1) > 0, "the W4A16 probe gives a speed");
  }
  expect(throws([] { cpu::read_bandwidth(nullptr, 1, 1); }), "read_bandwidth of null");
}

}  // namespace

int run_gemm_call_tests() {
  failures = 0;
  test_two_threads_at_once();
  test_after_fork();
  test_subnormals_switched_off();
  test_linear();
  test_parallel_for();
  test_choices();
  test_probes();
  std::printf("gemm calls: %d failures\n", failures);
  return failures;
}
