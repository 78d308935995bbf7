"""The probes: what they say is a rate, and the faster of two copies or matmuls counts."""

import pytest

from nvfp4.bench.roofline import Probes
from nvfp4.bench.timing import Budget, Samples, interleave


@pytest.fixture
def probes():
    return Probes(1 << 20)


def test_the_probes_measure_this_machine(probes):
    samples = interleave(probes.variants("bfloat16"), Budget(rounds=2, seconds=0.1, least=1))
    peaks = probes.peaks(samples)
    assert 0.01 < peaks.read_gbs < 10_000
    assert 0.01 < peaks.dot_gmacs < 100_000
    assert 0.01 < peaks.float_gmacs < 100_000
    assert peaks.memcpy_gbs == 0


@pytest.mark.parametrize("activations", ["float32", "float16", "bfloat16"])
def test_the_arithmetic_is_of_the_activations_own_kind(probes, activations):
    matmuls = {name for name in probes.variants(activations) if "matmul" in name}
    assert matmuls == {"probe matmul float32", f"probe matmul {activations}"}


def test_row_ops_need_no_arithmetic(probes):
    assert list(probes.variants(None)) == ["probe read"]


def test_the_faster_copy_and_the_faster_matmul_count(probes):
    probes.variants(None)
    samples = {
        "memcpy torch": Samples((10.0,)),
        "memcpy libc": Samples((5.0,)),
        "probe matmul float32": Samples((100.0,)),
        "probe matmul bfloat16": Samples((50.0,)),
    }
    peaks = probes.peaks(samples, copied_bytes=50_000)
    assert peaks.memcpy_gbs == pytest.approx(10.0)
    assert peaks.float_gmacs == pytest.approx(768**3 / 50e3)
    assert peaks.read_gbs == peaks.dot_gmacs == 0
