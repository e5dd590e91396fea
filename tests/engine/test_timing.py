"""Calls that take turns are timed until it is clear which is faster, and no longer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edge.engine import timing
from edge.engine.timing import Speed, Timing, measure


class Machine:
    """A clock that calls move on: one call takes `ms` times what the machine's other work makes."""

    def __init__(self, load: Callable[[], float] = lambda: 1.0) -> None:
        self.now, self._load = 0.0, load

    def clock(self) -> float:
        return self.now

    def call(self, ms: float) -> Callable[[], None]:
        def spend() -> None:
            self.now += ms * self._load() / 1e3

        return spend

    def measured(self, **ms: float) -> Timing:
        return measure({name: self.call(value) for name, value in ms.items()}, self.clock)


def test_a_quiet_machine_needs_few_rounds() -> None:
    found = Machine().measured(fp32=10.0, int8=4.0)
    assert found.rounds == 10
    assert found.ms("int8") == pytest.approx(4.0)
    speed = found.speed("int8", "fp32")
    assert speed.faster
    assert str(speed) == "2.50x (2.50 to 2.50) as fast as"


def test_a_noisy_machine_needs_more_until_the_interval_is_narrow() -> None:
    rng = np.random.default_rng(0)
    found = Machine(lambda: float(rng.lognormal(0, 0.04))).measured(fp32=10.0, int8=5.0)
    speed = found.speed("int8", "fp32")
    assert 10 < found.rounds <= 200
    assert speed.low < 2 < speed.high
    assert speed.high - speed.low <= 0.05 * speed.middle


def test_load_that_comes_and_goes_is_not_taken_for_a_speed() -> None:
    """The same engine, measured as 1.5 times faster, 1.4 times faster and 1.1 times slower."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        found = Machine(lambda: 1.0 + rng.integers(2)).measured(fp32=10.0, same=10.0)  # noqa: B023
        speed = found.speed("same", "fp32")
        assert not speed.faster
        assert "fast as" in str(speed) or "not told apart" in str(speed)


def test_the_time_is_bounded() -> None:
    rng = np.random.default_rng(0)
    machine = Machine(lambda: float(rng.lognormal(0, 1)))
    found = machine.measured(fp32=1000.0, int8=1000.0)  # a large model
    assert found.rounds == 10 or machine.now < 60
    assert Machine().measured(alone=1.0).rounds == 10


@pytest.mark.parametrize("count", [1, 2, 5, 10, 50])
def test_the_interval_of_a_median_covers_it(count: int) -> None:
    """Of 1000 measurements about 95 % have the true median in their interval, or more."""
    rng = np.random.default_rng(count)
    covered = 0
    for _ in range(1000):
        other = rng.exponential(1.0, count)
        speed = Speed.of([1.0] * count, other.tolist())
        assert speed.low <= speed.middle <= speed.high
        covered += speed.low <= np.log(2) <= speed.high
    assert covered >= (930 if count >= 10 else 0)


@pytest.mark.parametrize(
    ("speed", "text"),
    [
        (Speed(1.4, 1.5, 1.6), "1.50x (1.40 to 1.60) as fast as"),
        (Speed(0.7, 0.8, 0.9), "0.80x (0.70 to 0.90) as fast as"),
        (Speed(0.8, 1.5, 2.0), "not told apart by speed (0.80 to 2.00) from"),
        (Speed(0.99, 1.0, 1.02), "as fast as"),
        (Speed(1.01, 1.02, 1.03), "as fast as"),
    ],
)
def test_a_speed_in_words(speed: Speed, text: str) -> None:
    assert str(speed) == text


def test_the_machine_is_named() -> None:
    assert timing._cpu()
