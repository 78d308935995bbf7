"""What compute-sanitizer watches: every instance of the SM120 product, and the ops around it.

    PYTORCH_NO_CUDA_MEMORY_CACHING=1 PYTHONPATH=tests compute-sanitizer --tool memcheck \
        python tests/backends/sanitized.py

In a surrogate build (NVFP4_EMULATE_SM120) every plan of every instance runs on tiny shapes, as racecheck and synccheck
want it, or with the word `gemma` on the sizes of Gemma-4-31B's MLP; in a model build the ops do, on memory that nobody
wrote before, as initcheck wants it. The tests check numbers, this does not.
"""

from __future__ import annotations

import sys

import torch

import nvfp4
import sm120
from nvfp4 import GatedMLP, NVFP4Linear, NVFP4Tensor


def operand(rows: int, k: int) -> NVFP4Tensor:
    packed = torch.randint(0, 256, (rows, k // 2), dtype=torch.uint8, device="cuda")
    scale = torch.randint(0, 0x7F, (rows, k // 16), dtype=torch.uint8, device="cuda")
    return NVFP4Tensor(packed, scale.view(torch.float8_e4m3fn), torch.ones(1, device="cuda"), (rows, k))


TINY = [(8, 256, 512), (17, 136, 272), (100, 264, 400)]
GEMMA = [(m, n, k) for n, k in ((43008, 5376), (5376, 21504)) for m in (1, 16, 64, 256, 512, 2048)]


def products(sizes: list[tuple[int, int, int]], blocks: tuple[int, ...]) -> int:
    count = 0
    for m, n, k in sizes:
        a, b = operand(m, k), operand(n, k)
        for how in sm120.every_plan(m, n, k, blocks):
            sm120.product(how, a, b)
            count += 1
    return count


def ops() -> int:
    count = 0
    for static in (None, 30.0):
        gate, up, down = (
            NVFP4Linear.from_linear(torch.nn.Linear(i, o, dtype=torch.bfloat16), input_global_scale=static)
            for i, o in ((272, 208), (272, 208), (208, 136))
        )
        mlp = nvfp4.prepare(GatedMLP.from_linears(gate, up, down).cuda())
        for m in (1, 8, 17, 64, 100, 300):
            x = torch.randn(m, 272, device="cuda", dtype=torch.bfloat16)
            mlp(x)
            for granularity in ("row", "tensor"):
                a = nvfp4.quantize(x, granularity=granularity, layout="128x4")
                nvfp4.dequantize(a)
            nvfp4.rms_norm_quantize(x, torch.ones(272, device="cuda", dtype=torch.bfloat16), residual=x.clone())
            nvfp4.gated_quantize(x[:, :256], "silu")
            count += 6
    return count


if __name__ == "__main__":
    torch.manual_seed(0)
    if sm120.kernels.emulation() in ("", "model"):
        done = ops()
    else:
        done = products(GEMMA, (188,)) if "gemma" in sys.argv[1:] else products(TINY, (36, 5))
    torch.cuda.synchronize()
    sys.stdout.write(f"{done} calls\n")
