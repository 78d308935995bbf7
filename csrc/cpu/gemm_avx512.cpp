// AVX-512 gemm kernels for CPUs without VNNI: multiply-add of byte pairs to 16 bits, then to 32.
#include "gemm_avx512_common.h"
#include "gemm_epilogue.h"

namespace nvfp4::cpu {
namespace {

struct PairDot {
  __m512i operator()(const GroupCodes& group, const uint8_t* x, const uint8_t* offset) const {
    // Four products of at most 24 * 12 twice over: 2304 fits 16 bits.
    const __m512i sum01 = _mm512_add_epi16(_mm512_maddubs_epi16(group.word[0], broadcast_word(x)),
                                           _mm512_maddubs_epi16(group.word[1], broadcast_word(x + 4)));
    const __m512i sum23 = _mm512_add_epi16(_mm512_maddubs_epi16(group.word[2], broadcast_word(x + 8)),
                                           _mm512_maddubs_epi16(group.word[3], broadcast_word(x + 12)));
    const __m512i dot = _mm512_madd_epi16(_mm512_add_epi16(sum01, sum23), _mm512_set1_epi16(1));
    return _mm512_add_epi32(dot, broadcast_word(offset));
  }
};

}  // namespace

const GemmKernels kGemmAvx512 = {{8, 0.5, 2.5}, false, 0, stream<PairDot>, decode, panel<PairDot>, finish};

}  // namespace nvfp4::cpu
