#include "threads.h"

#include <omp.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <exception>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "nvfp4/errors.h"

namespace nvfp4::cpu {
namespace {

// libgomp keeps its worker threads between parallel regions. They do not survive fork(), but the child's copy of
// libgomp still believes in them and would wait for them for ever, so a child runs on its one thread. The handler is
// registered when the library is loaded because torch may have started the pool before our first call.
std::atomic<bool> is_fork_child{false};

struct ForkHandler {
  ForkHandler() {
    pthread_atfork(nullptr, nullptr, [] { is_fork_child.store(true, std::memory_order_relaxed); });
  }
};
const ForkHandler fork_handler;

// Sets round-to-nearest and keeps subnormals for its lifetime: flushing them would change quantised bytes and sums.
class IeeeScope {
 public:
  IeeeScope() : saved_(read()) {
    if (saved_ & kMask) write(saved_ & ~kMask);
  }
  ~IeeeScope() {
    if (saved_ & kMask) write(saved_);
  }
  IeeeScope(const IeeeScope&) = delete;
  IeeeScope& operator=(const IeeeScope&) = delete;

 private:
#if defined(__x86_64__)
  using Word = unsigned int;
  static constexpr Word kMask = 0x8000u | 0x6000u | 0x0040u;  // flush to zero, rounding mode, denormals are zero
  static Word read() { return _mm_getcsr(); }
  static void write(Word word) { _mm_setcsr(word); }
#elif defined(__aarch64__)
  using Word = uint64_t;
  static constexpr Word kMask = (3u << 22) | (1u << 24) | (1u << 19);  // rounding mode, FZ, FZ16
  static Word read() {
    Word word;
    asm volatile("mrs %0, fpcr" : "=r"(word));
    return word;
  }
  static void write(Word word) { asm volatile("msr fpcr, %0" ::"r"(word)); }
#else
  using Word = unsigned int;
  static constexpr Word kMask = 0;
  static Word read() { return 0; }
  static void write(Word) {}
#endif
  Word saved_;
};

}  // namespace

int resolve_threads(int threads) {
  check(threads >= 0, "threads: got ", threads, ", wanted 0 (as many as OpenMP would use) or more");
  if (is_fork_child.load(std::memory_order_relaxed)) return 1;
  return threads > 0 ? threads : omp_get_max_threads();
}

void parallel_for(int64_t count, int threads, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
  if (count <= 0) return;
  const int64_t most = std::max<int64_t>(1, count / std::max<int64_t>(1, grain));
  const int wanted = static_cast<int>(std::min<int64_t>(resolve_threads(threads), most));
  if (wanted == 1) {
    const IeeeScope ieee;
    body(0, count);
    return;
  }
  std::exception_ptr error;
#pragma omp parallel num_threads(wanted)
  {
    // The runtime may grant fewer threads than asked for, so the ranges follow what it granted.
    const int64_t team = omp_get_num_threads();
    const int64_t me = omp_get_thread_num();
    const int64_t begin = count * me / team;
    const int64_t end = count * (me + 1) / team;
    try {
      const IeeeScope ieee;
      if (begin < end) body(begin, end);
    } catch (...) {
#pragma omp critical(nvfp4_parallel_for_error)
      if (!error) error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace nvfp4::cpu
