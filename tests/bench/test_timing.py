"""The clock's arithmetic, on a clock that the test holds."""

import pytest

from nvfp4.bench.timing import Budget, Samples, by_clock, interleave, per_call


class FakeClock:
    """Stands still except where `spend` moves it."""

    def __init__(self):
        self.ns = 0

    def __call__(self):
        return self.ns

    def spend(self, us):
        self.ns += round(us * 1000)


def test_quantiles():
    samples = Samples((5.0, 1.0, 3.0, 2.0, 4.0))
    assert (samples.median, samples.p20, samples.p80) == (3.0, pytest.approx(1.8), pytest.approx(4.2))
    assert Samples((7.0,)).p80 == 7.0


def test_variants_take_turns_and_rotate():
    clock, order = FakeClock(), []

    def variant(name, us):
        def choose(round_):
            clock.spend(1000)  # Choosing operands must not count.

            def call():
                order.append((round_, name))
                clock.spend(us)

            return call

        return choose

    woken = []

    def before():
        clock.spend(500)  # Nor must waking the threads.
        woken.append(len(order))

    samples = interleave({"a": variant("a", 10), "b": variant("b", 20)}, Budget(3, seconds=9), by_clock(clock), before)
    assert order == [(r, name) for r in range(4) for name in "ab"]
    assert woken == [2, 3, 4, 5, 6, 7]  # before each timed call
    assert samples["a"].us == (10.0,) * 3
    assert samples["b"].us == (20.0,) * 3


def test_a_slow_variant_stops_early_and_the_others_go_on():
    clock = FakeClock()

    def variant(us):
        return lambda _: lambda: clock.spend(us)

    samples = interleave({"slow": variant(1e6), "fast": variant(1)}, Budget(20, seconds=1.5, least=3), by_clock(clock))
    assert len(samples["slow"].us) == 3
    assert len(samples["fast"].us) == 20


def test_per_call_divides_by_the_repeats():
    clock = FakeClock()
    samples = per_call({"a": lambda: clock.spend(5)}, repeats=7, rounds=2, timer=by_clock(clock))
    assert samples["a"].us == pytest.approx((5.0, 5.0))


@pytest.mark.parametrize("budget", [{"rounds": 0}, {"least": 0}])
def test_a_budget_gives_at_least_one_sample(budget):
    with pytest.raises(ValueError, match="at least 1"):
        Budget(**budget)
