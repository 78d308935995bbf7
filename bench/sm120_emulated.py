"""The SM120 matrix products on a Hopper GPU, timed in a build with NVFP4_EMULATE_SM120=surrogate.

``python bench/sm120_emulated.py`` prints every kernel against two rooflines of the same run: a loop of the same
products from registers alone, and memory read by bulk copies. The main loop's own share comes from the time that twice
as many columns take longer, in which launch, first copies and epilogue are not. CUDA graphs, rotating weights, medians.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from nvfp4 import _C
from nvfp4.bench.timing import successive

kernels: Any = getattr(_C, "cuda", None)
dispatch = _C.dispatch
LARGE = [(8192, 8192, 8192), (2048, 43008, 5376), (2048, 5376, 21504)]
GEMMA = [(43008, 5376), (5376, 21504)]


def stream() -> int:
    return torch.cuda.current_stream().cuda_stream


def random_bytes(*shape: int, high: int = 256) -> torch.Tensor:
    return torch.randint(0, high, shape, dtype=torch.uint8, device="cuda")


def product(plan: Any, m: int, n: int, k: int, copies: int, programmatic: bool) -> list[Callable[[], None]]:
    """Calls of one product, each with weights of its own."""
    units = [random_bytes(dispatch.units_bytes(n, k), high=0x70) for _ in range(copies)]
    codes, scales = random_bytes(m, k // 2), random_bytes(_C.swizzled_bytes(m, k // 16, 32), high=0x70)
    alpha = torch.ones(1, device="cuda")
    out = torch.empty(m, n, dtype=torch.bfloat16, device="cuda")
    partials = random_bytes(max(1, dispatch.sm120_partial_bytes(plan, m, n, k)))
    arrivals = torch.zeros(copies, max(1, dispatch.sm120_arrivals(plan, m, n, k)), dtype=torch.int32, device="cuda")

    def call(i: int) -> None:
        kernels.gemm(
            plan, m, n, k, codes.data_ptr(), k // 2, scales.data_ptr(), units[i].data_ptr(), alpha.data_ptr(), 0, False,
            0, 0, 0, 0, out.data_ptr(), 2, 0, 0, 0, 0, partials.data_ptr(), arrivals[i].data_ptr(), programmatic,
            stream(),
        )  # fmt: skip

    return [lambda i=i: call(i) for i in range(copies)]


def main() -> None:
    if kernels is None or kernels.emulation() != "surrogate":
        raise SystemExit("bench/sm120_emulated.py: wanted a build with NVFP4_EMULATE_SM120=surrogate")
    sms = torch.cuda.get_device_properties(0).multi_processor_count
    print(torch.cuda.get_device_name())
    words, numbers = random_bytes(4096), torch.empty(1 << 20, device="cuda")
    steps = 2000
    count = kernels.mma_loop(steps, sms, words.data_ptr(), numbers.data_ptr(), stream())
    loop = [lambda: kernels.mma_loop(steps, sms, words.data_ptr(), numbers.data_ptr(), stream())] * 4
    rate = count / successive(loop)
    data = random_bytes(2 << 30)
    read = max(
        data.numel()
        / successive(
            [lambda b=b: kernels.read_loop(data.data_ptr(), data.numel(), sms * b, numbers.data_ptr(), stream())] * 2
        )
        for b in (1, 2, 4)
    )
    print(f"register loop {rate * 16384 / 1e6:.0f} TFLOP/s, read {read / 1e6:.2f} TB/s")
    for m, n, k in LARGE:
        for name in ("128x128x128", "128x128x256", "256x128x128"):
            tokens = int(name.split("x")[0])
            tiles = -(-n // 128) * -(-m // tokens)
            group = max(1, round((sms * 128 / tokens) ** 0.5))
            blocks = sms
            plan = dispatch.Sm120Plan(dispatch.sm120_shapes().index(name), blocks, tiles // blocks * blocks, group)
            if dispatch.sm120_refusal(plan, m, n, k):
                # Fewer stages are left over than there are thread blocks: as many of these as share all tiles evenly.
                blocks = next(b for b in range(sms, 0, -1) if tiles % b == 0)
                plan = dispatch.Sm120Plan(dispatch.sm120_shapes().index(name), blocks, tiles, group)
            time, twice = (successive(product(plan, m, n, columns, 2, False), 7) for columns in (k, 2 * k))
            ideal = m * n * k / 8192 / rate
            # Tiles in pieces are spread over all SMs; whole ones over the thread blocks there are.
            loop_ideal = ideal * sms / blocks
            print(
                f"{m} x {n} x {k} {name}, {blocks} thread blocks: {time:.1f} us, {100 * ideal / time:.1f} % of the "
                f"loop; main loop alone {100 * loop_ideal / (twice - time):.1f} %"
            )
    for m in (1, 8, 16, 32, 64, 128, 256):
        for n, k in GEMMA:
            plan = dispatch.sm120_choose(m, n, k, kernels.gpu(0))
            moved = dispatch.units_bytes(n, k) + m * (k * 0.5625 + 2 * n)
            plain, early = (successive(product(plan, m, n, k, 6, programmatic)) for programmatic in (False, True))
            share = 100 * moved / plain / read
            print(
                f"{m} x {n} x {k} {plan.name}: {plain:.1f} us, {share:.1f} % of the read; programmatic {early:.1f} us"
            )


if __name__ == "__main__":
    main()
