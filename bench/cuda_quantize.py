"""The CUDA quantisation kernels, fused ones among them, against a copy of as many bytes.

``python bench/cuda_quantize.py [--dtype bfloat16] [--op TEXT] [--rows 4096,8192] [--csv FILE]`` prints microseconds,
the bytes read and written, and their rate as a share of a copy's in the same run; then one token, beside a kernel that
does nothing. CUDA graphs, rotating buffers, medians; each kernel's bytes are first compared with what its op gives.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import nvfp4
from nvfp4 import _C, NVFP4Tensor
from nvfp4.backends.arguments import ACTIVATION_CODES, DTYPE_CODES
from nvfp4.bench.machine import describe
from nvfp4.bench.results import check_writable
from nvfp4.bench.timing import successive
from nvfp4.tuning import driver_version

kernels: Any = getattr(_C, "cuda", None)
CODED = 0.5625  # bytes an element: codes and block scales
GIVEN, TENSOR, ROW = 0, 2, 3
MODES = {"static": GIVEN, "row": ROW, "tensor": TENSOR}
COPIES = 4
ONE_TOKEN = (5376, 21504)
SHAPES = [(4096, 5376), (8192, 5376), (16384, 5376), (2048, 21504), (4096, 21504)]


class Memory(NamedTuple):
    """Operands of one call."""

    x: Tensor  # [rows, 2 * k]: the first half alone for what is not gated
    residual: Tensor
    weight: Tensor
    total: Tensor
    packed: Tensor
    scale: Tensor
    global_scale: Tensor
    values: Tensor
    workspace: Tensor


class Case(NamedTuple):
    name: str
    moved: float  # bytes an element
    call: Callable[[Memory], None]
    op: Callable[[Memory], NVFP4Tensor | Tensor]


def stream() -> int:
    return torch.cuda.current_stream().cuda_stream


def memory(rows: int, k: int, dtype: torch.dtype, gated: bool) -> Memory:
    columns = 2 * k if gated else k
    return Memory(
        torch.randn(rows, columns, device="cuda").to(dtype),
        torch.randn(rows, k, device="cuda").to(dtype),
        torch.randn(k, device="cuda").to(dtype),
        torch.empty(rows, k, dtype=dtype, device="cuda"),
        torch.empty(rows, k // 2, dtype=torch.uint8, device="cuda"),
        torch.empty(-(-rows // 128) * 128 * -(-k // 64) * 4, dtype=torch.uint8, device="cuda"),
        torch.full((rows, 1), 500.0, device="cuda"),
        torch.empty(rows, k, dtype=dtype, device="cuda"),
        torch.empty(4, dtype=torch.uint8, device="cuda"),
    )


def given(m: Memory, mode: int) -> Tensor | None:
    return m.global_scale[:1, 0].clone() if mode == GIVEN else None


def quantize(m: Memory, mode: int, layout: int = 0) -> None:
    kernels.quantize(
        m.x.data_ptr(), DTYPE_CODES[m.x.dtype], *m.x.shape, m.x.shape[1], mode, 0, layout, m.global_scale.data_ptr(),
        m.packed.data_ptr(), m.scale.data_ptr(), m.workspace.data_ptr(), stream(),
    )  # fmt: skip


def quantized(m: Memory, mode: int, layout: str = "plain") -> NVFP4Tensor:
    return nvfp4.quantize(m.x, given(m, mode), "tensor" if mode == TENSOR else "row", layout=layout)


def both(m: Memory, mode: int) -> None:
    code = DTYPE_CODES[m.x.dtype]
    kernels.quantize_dequantize(
        m.x.data_ptr(), code, *m.x.shape, m.x.shape[1], mode, 0, m.global_scale.data_ptr(), m.values.data_ptr(), code,
        m.workspace.data_ptr(), stream(),
    )  # fmt: skip


def both_by_op(m: Memory, mode: int) -> Tensor:
    return nvfp4.quantize_dequantize(m.x, given(m, mode), "tensor" if mode == TENSOR else "row")


def gated(m: Memory, mode: int, activation: str, interleaved: bool) -> None:
    rows, k = m.values.shape
    kernels.gated_quantize(
        m.x.data_ptr(), DTYPE_CODES[m.x.dtype], rows, k, 2 * k, ACTIVATION_CODES[activation], interleaved, mode, 0,
        m.global_scale.data_ptr(), m.packed.data_ptr(), 0, m.scale.data_ptr(), 0, 0, 0, 0, 0, stream(),
    )  # fmt: skip


def gated_by_op(m: Memory, mode: int, activation: Any, interleaved: bool) -> NVFP4Tensor:
    return nvfp4.gated_quantize(m.x, activation, interleaved=interleaved, global_scale=given(m, mode))


def norm(m: Memory, mode: int, residual: bool) -> None:
    rows, k = m.values.shape
    kernels.rms_norm_quantize(
        m.x.data_ptr(), DTYPE_CODES[m.x.dtype], rows, k, k, m.weight.data_ptr(), 1e-6, True,
        m.residual.data_ptr() * residual, k, m.total.data_ptr() * residual, mode, 0, m.global_scale.data_ptr(),
        m.packed.data_ptr(), 0, m.scale.data_ptr(), 0, 0, 0, 0, 0, 0, 0, stream(),
    )  # fmt: skip


def norm_by_op(m: Memory, mode: int, residual: bool) -> NVFP4Tensor:
    added = m.residual if residual else None
    result = nvfp4.rms_norm_quantize(m.x, m.weight, unit_offset=True, global_scale=given(m, mode), residual=added)
    return result[0] if isinstance(result, tuple) else result


def cases(size: int) -> Iterator[Case]:
    """Every kernel, for values of this many bytes."""
    for name, mode in MODES.items():
        passes = 2 if mode == TENSOR else 1
        yield Case(
            f"quantize {name}", passes * size + CODED, partial(quantize, mode=mode), partial(quantized, mode=mode)
        )
        yield Case(
            f"quantize_dequantize {name}", (passes + 1) * size, partial(both, mode=mode), partial(both_by_op, mode=mode)
        )
    yield Case(
        "quantize static 128x4", size + CODED, partial(quantize, mode=GIVEN, layout=1),
        partial(quantized, mode=GIVEN, layout="128x4"),
    )  # fmt: skip
    for name, mode in (("static", GIVEN), ("row", ROW)):
        for text, residual in (("", False), (" + residual", True)):
            call, op = (partial(f, mode=mode, residual=residual) for f in (norm, norm_by_op))
            yield Case(f"norm{text} {name}", (3 if residual else 1) * size + CODED, call, op)
        for activation, interleaved in (*((a, False) for a in ACTIVATION_CODES), ("gelu_tanh", True)):
            call, op = (
                partial(f, mode=mode, activation=activation, interleaved=interleaved) for f in (gated, gated_by_op)
            )
            text = " interleaved" if interleaved else ""
            yield Case(f"gated {activation}{text} {name}", 2 * size + CODED, call, op)


def compare(case: Case, m: Memory) -> None:
    """The kernel's bytes are its op's."""
    wanted = case.op(m)
    case.call(m)
    if isinstance(wanted, NVFP4Tensor):
        count = wanted.scale.numel()
        same = torch.equal(m.packed, wanted.packed)
        same = same and torch.equal(m.scale[:count], wanted.scale.view(torch.uint8).flatten())
    else:
        same = torch.equal(m.values, wanted)
    if not same:
        raise SystemExit(f"bench/cuda_quantize.py: {case.name}: other bytes than the op's; nothing is timed")


def copy_time(nbytes: int) -> float:
    source = torch.randint(0, 256, (COPIES, nbytes // 2), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return successive([partial(target[i].copy_, source[i]) for i in range(COPIES)])


COLUMNS = (
    "op",
    "rows",
    "k",
    "dtype",
    "us",
    "bytes",
    "of_copy",
    "command",
    "gpu",
    "driver",
    "torch",
    "nvfp4",
    "commit",
    "date",
)


def write_csv(path: Path, rows: list[tuple[object, ...]]) -> None:
    here = describe()
    command = shlex.join(["python", "bench/cuda_quantize.py", *sys.argv[1:]])
    machine = (command, torch.cuda.get_device_name(), driver_version(), here.torch, here.nvfp4, here.commit, here.date)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *((*row, *machine) for row in rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    parser.add_argument("--op", default="", help="only cases with this text in their name")
    parser.add_argument("--rows", default="", help="only shapes with these numbers of rows, such as 4096,8192")
    parser.add_argument("--csv", type=Path, help="write every row to this file")
    options = parser.parse_args()
    if options.csv is not None:
        check_writable(options.csv)
    if kernels is None or not torch.cuda.is_available():
        raise SystemExit("bench/cuda_quantize.py: wanted a GPU and a build with the CUDA part")
    dtype = getattr(torch, options.dtype)
    chosen = [case for case in cases(dtype.itemsize) if options.op in case.name]
    print(torch.cuda.get_device_name(), torch.__version__, options.dtype)
    rows_written: list[tuple[object, ...]] = []
    for rows, k in SHAPES:
        if options.rows and str(rows) not in options.rows.split(","):
            continue
        for case in chosen:
            operands = [memory(rows, k, dtype, "gated" in case.name) for _ in range(COPIES)]
            compare(case, operands[0])
            moved = rows * k * case.moved
            time = successive([partial(case.call, m) for m in operands])
            copied = copy_time(int(moved))
            print(
                f"{rows:>6} x {k:<6} {case.name:<36} {time:8.1f} us {moved / 1e6:7.0f} MB "
                f"{moved / time / 1e6:6.3f} TB/s {100 * copied / time:5.0f} % of a copy"
            )
            size = (rows, k, options.dtype)
            rows_written.append((case.name, *size, f"{time:.2f}", int(moved), f"{copied / time:.3f}"))
    one = torch.zeros(1, device="cuda")
    nothing = successive([lambda: one.add_(1)] * 64)
    print(f"one token, us; a kernel that adds to one element: {nothing:.2f}")
    for case in chosen:
        times = []
        for k in ONE_TOKEN:
            operands = [memory(1, k, dtype, "gated" in case.name) for _ in range(COPIES)]
            times.append(successive([partial(case.call, m) for m in operands * 16]))
            rows_written.append((case.name, 1, k, options.dtype, f"{times[-1]:.2f}", int(k * case.moved), ""))
        print(f"{case.name:<36} K = 5376 {times[0]:6.2f}   K = 21504 {times[1]:6.2f}")
    if options.csv is not None:
        write_csv(options.csv, rows_written)


if __name__ == "__main__":
    main()
