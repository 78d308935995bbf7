"""Which versions of Triton compile which kernels for which GPUs. Nothing is imported to say so."""

from __future__ import annotations

import re

__all__ = ["NATIVE", "OLDEST", "native_refusal", "triton_refusal"]

OLDEST = (3, 5)
"""Comes with torch 2.9; older ones have not been tried."""

# Found by compiling `native.py` ahead of time, in a process each, for compute capabilities 8.0, 8.6, 8.9, 9.0, 10.0,
# 10.3, 12.0 and 12.1 by Triton 3.5.0, 3.5.1, 3.6.0, 3.7.0, 3.7.1, 3.8.0 and 3.9.0, and reading the PTX. A pair is here
# where that has mma.sync or tcgen05.mma with kind::mxf4nvf4 and scales of 16. Of the others 3.5 ends the process for
# 10.3 (LLVM cannot select an instruction) and fails for 12.0. For 8.9, 9.0 and 12.1 an assertion of LLVM's fails up to
# 3.7; from 3.8 on 8.9 and 9.0 get 16-bit products that spill registers, and 12.1 the instruction; not
# allowed, since up to 3.7 trying it fails. 8.0 and 8.6 do not have the type of the scales.
NATIVE: dict[tuple[int, int], tuple[tuple[int, int], ...]] = {
    (10, 0): ((3, 5), (3, 6), (3, 7), (3, 8), (3, 9)),
    (10, 3): ((3, 6), (3, 7), (3, 8), (3, 9)),
    (12, 0): ((3, 6), (3, 7), (3, 8), (3, 9)),
}
"""Compute capabilities, and the versions of Triton proven to compile tl.dot_scaled of NVFP4 to their instruction."""


def _release(version: str) -> tuple[int, int]:
    """Major and minor; of what is no version, zeros."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def triton_refusal(version: str) -> str:
    """Why no kernel runs with this Triton, and what to install; or an empty string."""
    if _release(version) < OLDEST:
        return f"Triton {version} is too old: pip install 'triton>={OLDEST[0]}.{OLDEST[1]}'"
    return ""


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
