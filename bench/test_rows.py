"""Quantise and dequantise beside memcpy: `pytest bench/test_rows.py --benchmark-only --m 256`."""

import pytest

from nvfp4.bench.cases import ROW_OPS
from nvfp4.bench.runner import backend_of
from nvfp4.bench.variants import MEMCPY, row_variants

OPS = ROW_OPS


def test_row_op(case, rows, rotate):
    if case.op == "quantize-kernel" and backend_of(case).name != "cpu":
        pytest.skip("quantize-kernel is of the cpu backend")
    rotate(case, case.op, row_variants([case], rows(case))[case.op])


@pytest.mark.parametrize("copy", MEMCPY)
def test_memcpy(case, copy, rows, rotate):
    if case.op != OPS[0]:
        pytest.skip("the copies do not depend on the op")
    rotate(case, copy, row_variants([], rows(case))[copy])
