"""The compiled core (csrc/python/module.cpp). Pointers are integers, 0 is null; enumerations as in nvfp4/problem.h.

A bias_dtype of -1 means that there is no bias. An argument the core refuses is a ValueError. Private: only
`nvfp4.backends` calls kernels.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

class _Cpu(Protocol):
    def isas(self) -> list[tuple[str, bool, bool]]: ...
    def isa(self) -> str: ...
    def set_isa(self, name: str) -> None: ...
    def quantize(
        self,
        x: int,
        dtype: int,
        rows: int,
        cols: int,
        row_stride: int,
        mode: int,
        scheme: int,
        scale_layout: int,
        global_scale: int,
        packed: int,
        scale: int,
        threads: int,
    ) -> None: ...
    def dequantize(
        self,
        packed: int,
        scale: int,
        scale_layout: int,
        global_scale: int,
        global_scale_per_row: bool,
        rows: int,
        cols: int,
        out: int,
        dtype: int,
        threads: int,
    ) -> None: ...
    def repack(self, packed: int, scale: int, n: int, k: int, tiles: int, threads: int) -> None: ...
    def unrepack(self, tiles: int, n: int, k: int, packed: int, scale: int, threads: int) -> None: ...
    def swizzle_scales(self, plain: int, rows: int, groups: int, swizzled: int) -> None: ...
    def unswizzle_scales(self, swizzled: int, rows: int, groups: int, plain: int) -> None: ...
    def gemm_w4a4(
        self,
        m: int,
        n: int,
        k: int,
        a_packed: int,
        a_scale: int,
        a_global_scale: int,
        a_global_scale_per_row: bool,
        b_tiles: int,
        b_global_scale: int,
        b_global_scale_per_row: bool,
        bias: int,
        bias_dtype: int,
        out: int,
        out_dtype: int,
        threads: int,
    ) -> None: ...
    def gemm_w4a16(
        self,
        m: int,
        n: int,
        k: int,
        a: int,
        a_dtype: int,
        a_row_stride: int,
        b_tiles: int,
        b_global_scale: int,
        b_global_scale_per_row: bool,
        bias: int,
        bias_dtype: int,
        out: int,
        out_dtype: int,
        threads: int,
    ) -> None: ...
    def linear_w4a4(
        self,
        m: int,
        n: int,
        k: int,
        x: int,
        x_dtype: int,
        x_row_stride: int,
        mode: int,
        global_scale: int,
        b_tiles: int,
        b_global_scale: int,
        b_global_scale_per_row: bool,
        bias: int,
        bias_dtype: int,
        out: int,
        out_dtype: int,
        threads: int,
    ) -> None: ...
    def dot_loop(self, iterations: int, threads: int) -> float: ...
    def float_dot_loop(self, iterations: int, activations: int, threads: int) -> float: ...
    def read_bandwidth(self, data: int, nbytes: int, threads: int) -> float: ...

class _Cuda(Protocol):
    WORKSPACE_BYTES: int
    def built_archs(self) -> list[str]: ...
    def runs_on(self, major: int, minor: int) -> bool: ...
    def quantize(
        self,
        x: int,
        dtype: int,
        rows: int,
        cols: int,
        row_stride: int,
        mode: int,
        scheme: int,
        scale_layout: int,
        global_scale: int,
        packed: int,
        scale: int,
        workspace: int,
        stream: int,
    ) -> None: ...
    def dequantize(
        self,
        packed: int,
        scale: int,
        scale_layout: int,
        global_scale: int,
        global_scale_per_row: bool,
        rows: int,
        cols: int,
        out: int,
        dtype: int,
        stream: int,
    ) -> None: ...
    def swizzle_scales(self, plain: int, rows: int, groups: int, swizzled: int, stream: int) -> None: ...
    def unswizzle_scales(self, swizzled: int, rows: int, groups: int, plain: int, stream: int) -> None: ...
    def driver_refusal(self) -> str: ...
    def gpu(self, index: int) -> _Gpu: ...
    def emulation(self) -> str: ...
    def gemm_runs_on(self, major: int, minor: int) -> bool: ...
    def quantize_tokens(
        self,
        x: int,
        dtype: int,
        rows: int,
        cols: int,
        row_stride: int,
        mode: int,
        global_scale: int,
        packed: int,
        packed_pitch: int,
        scale: int,
        workspace: int,
        weight_global_scale: int,
        alpha: int,
        zeros: int,
        zero_count: int,
        stream: int,
        up_global_scale: int = 0,
        up_alpha: int = 0,
        next_input_global_scale: int = 0,
        next_weight_global_scale: int = 0,
        next_alpha: int = 0,
    ) -> None: ...
    def gated_quantize(
        self,
        x: int,
        dtype: int,
        rows: int,
        cols: int,
        row_stride: int,
        activation: int,
        interleaved: bool,
        mode: int,
        scale_layout: int,
        global_scale: int,
        packed: int,
        packed_pitch: int,
        scale: int,
        values: int,
        weight_global_scale: int,
        alpha: int,
        zeros: int,
        zero_count: int,
        stream: int,
    ) -> None: ...
    def rms_norm_quantize(
        self,
        x: int,
        dtype: int,
        rows: int,
        cols: int,
        row_stride: int,
        weight: int,
        eps: float,
        unit_offset: bool,
        residual: int,
        residual_stride: int,
        total: int,
        mode: int,
        scale_layout: int,
        global_scale: int,
        packed: int,
        packed_pitch: int,
        scale: int,
        values: int,
        weight_global_scale: int,
        alpha: int,
        up_weight_global_scale: int,
        up_alpha: int,
        zeros: int,
        zero_count: int,
        stream: int,
    ) -> None: ...
    def quantize_dequantize(
        self,
        x: int,
        dtype: int,
        rows: int,
        cols: int,
        row_stride: int,
        mode: int,
        scheme: int,
        global_scale: int,
        out: int,
        out_dtype: int,
        workspace: int,
        stream: int,
    ) -> None: ...
    def prepare_tokens(
        self,
        scale: int,
        rows: int,
        groups: int,
        global_scale: int,
        per_row: bool,
        swizzled: int,
        weight_global_scale: int,
        alpha: int,
        zeros: int,
        zero_count: int,
        stream: int,
    ) -> None: ...
    def to_units(self, packed: int, scale: int, n: int, k: int, units: int, stream: int) -> None: ...
    def from_units(self, units: int, n: int, k: int, packed: int, scale: int, stream: int) -> None: ...
    def gemm(
        self,
        plan: _Sm120Plan,
        m: int,
        n: int,
        k: int,
        a_packed: int,
        a_pitch: int,
        a_scale: int,
        b_units: int,
        alpha: int,
        up_alpha: int,
        alpha_per_token: bool,
        bias: int,
        bias_dtype: int,
        activation: int,
        residual: int,
        out: int,
        out_dtype: int,
        out_packed: int,
        out_pitch: int,
        out_scale: int,
        out_global_scale: int,
        partials: int,
        arrivals: int,
        programmatic: bool,
        stream: int,
    ) -> None: ...
    def instruction(
        self,
        tiles: int,
        a: int,
        b: int,
        c: int,
        sfa: int,
        sfb: int,
        thread_id_a: int,
        thread_id_b: int,
        d: int,
        stream: int,
    ) -> None: ...
    def mma_loop(self, steps: int, blocks: int, operands: int, out: int, stream: int) -> int: ...
    def read_loop(self, data: int, nbytes: int, blocks: int, out: int, stream: int) -> int: ...

class _Gpu(Protocol):
    sms: int
    clock: float
    bandwidth: float

class _Sm120Plan(Protocol):
    shape: int
    blocks: int
    whole: int
    group: int
    seconds: float
    bound: str
    tuned: bool
    name: str

class _Dispatch(Protocol):
    Gpu: Callable[[int, float, float], _Gpu]  # (sms, clock, bandwidth)
    Sm120Plan: Callable[..., _Sm120Plan]  # (shape, blocks, whole, group, tuned=False), all integers but the last
    def sm120_shapes(self) -> list[str]: ...
    def sm120_refusal(self, plan: _Sm120Plan, m: int, n: int, k: int) -> str: ...
    def sm120_candidates(self, m: int, n: int, k: int, gpu: _Gpu) -> list[_Sm120Plan]: ...
    def sm120_predict(self, plan: _Sm120Plan, m: int, n: int, k: int, gpu: _Gpu) -> _Sm120Plan: ...
    def sm120_choose(self, m: int, n: int, k: int, gpu: _Gpu) -> _Sm120Plan: ...
    def sm120_partial_bytes(self, plan: _Sm120Plan, m: int, n: int, k: int) -> int: ...
    def sm120_arrivals(self, plan: _Sm120Plan, m: int, n: int, k: int) -> int: ...
    def units_bytes(self, n: int, k: int) -> int: ...

class _Emulation(Protocol):
    def mma_m16n8k64(
        self,
        a: NDArray[np.uint32],
        b: NDArray[np.uint32],
        c: NDArray[np.float32],
        sfa: NDArray[np.uint32],
        sfb: NDArray[np.uint32],
        thread_id_a: int,
        thread_id_b: int,
    ) -> NDArray[np.float32]: ...

cpu: _Cpu
dispatch: _Dispatch
cuda: _Cuda  # missing in a build without the CUDA part
emulation: _Emulation

def swizzled_bytes(rows: int, groups: int, atom_rows: int = 128) -> int: ...
def tiles_bytes(n: int, k: int) -> int: ...
def build_info() -> dict[str, str]: ...
