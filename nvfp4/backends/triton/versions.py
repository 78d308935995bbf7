"""Which versions of Triton compile which kernels for which GPUs. Nothing is imported to say so."""

from __future__ import annotations

import re

__all__ = ["NATIVE", "OLDEST", "native_refusal", "triton_refusal", "unproven"]

OLDEST = (3, 6)
"""Comes with torch 2.10."""

# The PTX that 3.5 makes of tl.div_rn is div.rn.ftz.f32, for every GPU; older ones have not been tried.
_FLUSHING = ((3, 5),)

# Found by compiling `native.py` ahead of time, in a process each, for compute capabilities 8.0, 8.6, 8.9, 9.0, 10.0,
# 10.3, 12.0 and 12.1 by Triton 3.6.0, 3.7.0, 3.7.1, 3.8.0 and 3.9.0, and reading the PTX. A pair is here where that has
# mma.sync or tcgen05.mma with kind::mxf4nvf4 and scales of 16. For 8.9, 9.0 and 12.1 an assertion of LLVM's fails up to
# 3.7; from 3.8 on 8.9 and 9.0 get 16-bit products that spill registers, and 12.1 the instruction, which is left alone
# because trying it fails up to 3.7. 8.0 and 8.6 do not have the type of the scales.
NATIVE: dict[tuple[int, int], tuple[tuple[int, int], ...]] = {
    (10, 0): ((3, 6), (3, 7), (3, 8), (3, 9)),
    (10, 3): ((3, 6), (3, 7), (3, 8), (3, 9)),
    (12, 0): ((3, 6), (3, 7), (3, 8), (3, 9)),
}
"""Compute capabilities, and the versions of Triton proven to compile tl.dot_scaled of NVFP4 to their instruction."""


# A warpgroup's product reads registers while the program goes on (`gemm.py`). That nothing is written to them meanwhile
# is read off the machine code that 3.6.0, 3.7.0, 3.7.1, 3.8.0 and 3.9.0 make (`tests/backends/test_triton_aot.py`).
_RUN_ON = (9, 0)
_READ = ((3, 6), (3, 7), (3, 8), (3, 9))


def _release(version: str) -> tuple[int, int]:
    """Major and minor; of what is no version, zeros."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def triton_refusal(version: str) -> str:
    """Why no kernel runs with this Triton, and what to install; or an empty string."""
    release = _release(version)
    if release >= OLDEST:
        return ""
    why = "takes subnormal numbers for zero where it divides" if release in _FLUSHING else "is too old"
    return f"Triton {version} {why}: pip install 'triton>={OLDEST[0]}.{OLDEST[1]}'"


def native_refusal(capability: tuple[int, int], triton_version: str) -> str:
    """Why the product of two NVFP4 matrices is not compiled to the GPU's own instruction; or an empty string.

    A compilation that fails may end the process, so what was never tried is refused too.
    """
    major, minor = capability
    if major < 10:
        return f"compute capability {major}.{minor} has no FP4 tensor cores"
    proven = NATIVE.get(capability)
    if proven is None:
        return f"no version of Triton is known to compile FP4 products for compute capability {major}.{minor}"
    if _release(triton_version) in proven:
        return ""
    (first_major, first), (last_major, last) = proven[0], proven[-1]
    return (
        f"Triton {triton_version} is not known to compile FP4 products for compute capability {major}.{minor}: "
        f"pip install 'triton>={first_major}.{first},<{last_major}.{last + 1}'"
    )


def unproven(capability: tuple[int, int], triton_version: str) -> str:
    """What to know of kernels that were never run on such a GPU, or not looked at from such a Triton; or nothing."""
    if capability != _RUN_ON:
        major, minor = capability
        return f"; never run on compute capability {major}.{minor} by the authors: `nvfp4 selftest` checks it here"
    if _release(triton_version) not in _READ:
        return f"; Triton {triton_version} was never tried by the authors: `nvfp4 selftest` checks it here"
    return ""
