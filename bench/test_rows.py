"""Quantise and dequantise beside memcpy: `pytest bench/test_rows.py --benchmark-only --m 256`."""

from nvfp4.bench.cases import ROW_OPS
from nvfp4.bench.variants import MEMCPY, row_variants

OPS = ROW_OPS


def test_row_op(case, rows, rotate):
    rotate(case, case.op, row_variants([case], rows(case))[case.op])


def test_memcpy(case, name, rows, rotate):
    rotate(case, name, row_variants([], rows(case))[name])


test_memcpy.beside = lambda _: MEMCPY
