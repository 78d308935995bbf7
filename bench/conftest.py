"""Options of `pytest bench --benchmark-only`; the cases are those of `nvfp4 bench` (nvfp4/bench/cases.py)."""

import pytest
import torch

from nvfp4.bench import cases, runner
from nvfp4.bench.machine import describe, last_level_cache
from nvfp4.bench.operands import LinearOperands, RowOperands, cold_bytes

COLD = cold_bytes(last_level_cache())


def pytest_addoption(parser):
    group = parser.getgroup("nvfp4")
    group.addoption("--shape", action="append", default=[], help="N,K of a weight; may be repeated")
    group.addoption("--m", default="", help="numbers of tokens, such as 1,16,256")
    group.addoption("--dtype", default="bfloat16", help="bfloat16, float16 or float32")


def pytest_generate_tests(metafunc):
    if "case" not in metafunc.fixturenames:
        return
    option = metafunc.config.getoption
    shapes = [cases.parse_shape(text) for text in option("--shape")] or cases.SHAPES
    tokens = cases.parse_tokens(option("--m")) if option("--m") else None
    # What stands beside our ops does not depend on the op, so it is measured with the first one's cases.
    beside = getattr(metafunc.function, "beside", None)
    ops = metafunc.module.OPS[:1] if beside else metafunc.module.OPS
    chosen = cases.make_cases(ops, shapes, tokens, cases.parse_dtype(option("--dtype")))
    if not beside:
        metafunc.parametrize("case", [case for case in chosen if runner.is_served(case)], ids=str)
        return
    pairs = [(case, name) for case in chosen for name in beside(case)]
    metafunc.parametrize(("case", "name"), pairs, ids=[f"{case}-{name}" for case, name in pairs])


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["nvfp4"] = describe().as_dict()


@pytest.fixture(scope="session")
def weights():
    """The weight of a case: the last one is kept, because cases of one shape stand together."""
    kept = {}

    def of(case, layout):
        key = case.n, case.k, layout
        if key not in kept:
            kept.clear()
            kept[key] = LinearOperands(case.n, case.k, layout, COLD)
        return kept[key]

    return of


@pytest.fixture
def rows():
    return lambda case: RowOperands(case.m, case.k, case.dtype, COLD)


@pytest.fixture
def rotate(benchmark):
    """Benchmark a variant: another copy of the operands for every round, chosen outside of the timing."""

    def run(case, name, variant, rounds=15):
        round_ = iter(range(1, 1 << 30))
        benchmark.group = str(case).removeprefix(f"{case.op}-")
        benchmark.extra_info |= {"variant": name, "bytes": case.bytes, "macs": case.macs}
        with torch.no_grad():
            benchmark.pedantic(
                lambda call: call(), setup=lambda: ((variant(next(round_)),), {}), rounds=rounds, warmup_rounds=1
            )

    return run
