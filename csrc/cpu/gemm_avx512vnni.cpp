// AVX-512 gemm kernels for CPUs with VNNI: one instruction multiplies four columns of sixteen rows and sums them.
#include "gemm_avx512_common.h"
#include "gemm_epilogue.h"

namespace nvfp4::cpu {
namespace {

struct VnniDot {
  __m512i operator()(const GroupCodes& group, const uint8_t* x, const uint8_t* offset) const {
    __m512i dot = _mm512_dpbusd_epi32(broadcast_word(offset), group.word[0], broadcast_word(x));
    dot = _mm512_dpbusd_epi32(dot, group.word[1], broadcast_word(x + 4));
    dot = _mm512_dpbusd_epi32(dot, group.word[2], broadcast_word(x + 8));
    return _mm512_dpbusd_epi32(dot, group.word[3], broadcast_word(x + 12));
  }
};

}  // namespace

const GemmKernels kGemmAvx512Vnni = {{8, 0.5, 2.5}, false, 0, stream<VnniDot>, decode, panel<VnniDot>, finish};

}  // namespace nvfp4::cpu
