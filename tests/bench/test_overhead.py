"""The price of a call is measured for module, op, kernel and F.linear."""

from nvfp4 import backends
from nvfp4.bench.overhead import measure_overhead


def test_every_figure_is_measured_on_the_cpu_backend():
    with backends.force("cpu"):
        (tiny,) = measure_overhead([(16, 64)], repeats=2, rounds=2)
    assert (tiny.n, tiny.k) == (16, 64)
    assert min(tiny.module_us, tiny.op_us, tiny.kernel_us, tiny.torch_bf16_us, tiny.torch_fp32_us) > 0


def test_the_reference_has_no_kernel_of_its_own():
    with backends.force("reference"):
        (tiny,) = measure_overhead([(16, 64)], repeats=2, rounds=2)
    assert tiny.kernel_us is None
    assert tiny.python_us is None
