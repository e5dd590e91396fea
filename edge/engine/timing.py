"""Timing: calls that take turns, and how sure it is which of them is faster."""

from __future__ import annotations

import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Speed", "Timing", "interleave", "measure"]

WARM_UP = 3
FASTER = 1.05  # smallest speed-up that counts
_Z = 1.959964  # 95 % of a normal distribution lie within this number of standard deviations
_NARROW = 0.05  # width of an interval, as a share of its middle, that ends the measurement
_FEWEST, _MOST = 10, 200  # rounds
_SECONDS = 20.0  # after which no more rounds begin


@dataclass(frozen=True)
class Speed:
    """How many times faster one call is than another: the median, and its 95 % interval."""

    low: float
    middle: float
    high: float

    def __post_init__(self) -> None:
        """Raises ValueError for an interval that no measurement gives."""
        if not 0 < self.low <= self.middle <= self.high < math.inf:
            raise ValueError(f"a speed of {self.middle} ({self.low} to {self.high})")

    @staticmethod
    def of(ms: Sequence[float], other: Sequence[float]) -> Speed:
        """The speed of a call compared with another, from their times in the same rounds.

        The two times of a round were measured directly after each other, so a change of the clock
        rate or of the load affects both. The interval of the median is that of order statistics
        (H. A. David, Order Statistics, 7.1): it holds for every distribution.

        >>> Speed.of([2.0] * 20, [3.0] * 20).middle
        1.5
        """
        ratios = sorted(slow / fast for fast, slow in zip(ms, other, strict=True))
        count = len(ratios)
        below = max(0, math.floor(count / 2 - _Z * math.sqrt(count) / 2))
        return Speed(ratios[below], statistics.median(ratios), ratios[count - 1 - below])

    @property
    def faster(self) -> bool:
        """Whether it is faster for certain, and by at least `FASTER`."""
        return self.low > 1 and self.middle >= FASTER

    def __str__(self) -> str:
        """In words, to be followed by the name of the other one."""
        interval = f"({self.low:.2f} to {self.high:.2f})"
        if self.faster or (self.high < 1 and self.middle <= 1 / FASTER):
            return f"{self.middle:.2f}x {interval} as fast as"
        if self.low < 1 / FASTER or self.high > FASTER:
            return f"not told apart by speed {interval} from"
        return "as fast as"


@dataclass(frozen=True)
class Timing:
    """The times of several calls on one machine; equal positions are of the same round."""

    times_ms: Mapping[str, Sequence[float]]
    machine: str

    def ms(self, name: str) -> float:
        """The median milliseconds of a call."""
        return statistics.median(self.times_ms[name])

    def speed(self, name: str, other: str) -> Speed:
        """The speed of a call compared with another."""
        return Speed.of(self.times_ms[name], self.times_ms[other])

    @property
    def rounds(self) -> int:
        return len(next(iter(self.times_ms.values())))


def interleave(calls: Mapping[str, Any], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each call, per round. Calls take turns: disturbances affect them all."""
    return _turns(calls, lambda times: len(next(iter(times.values()))) >= rounds)


def measure(
    calls: Mapping[str, Callable[[], object]], clock: Callable[[], float] = time.perf_counter
) -> Timing:
    """Time calls in turns until the speed of each compared with the first is narrow.

    Measuring ends after `_SECONDS` at the latest. On a machine with other work the intervals are
    then still wide, and `Speed` reports the two as not told apart.
    """
    begun, first = clock(), next(iter(calls))

    def told(times: Mapping[str, Sequence[float]]) -> bool:
        count = len(times[first])
        if count < _FEWEST:
            return False
        if count >= _MOST or clock() - begun > _SECONDS:
            return True
        speeds = [Speed.of(times[name], times[first]) for name in calls if name != first]
        return all(one.high - one.low <= _NARROW * one.middle for one in speeds)

    machine = f"{_cpu()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    return Timing(_turns(calls, told, clock), machine)


def _turns(
    calls: Mapping[str, Callable[[], object]],
    ended: Callable[[Mapping[str, Sequence[float]]], bool],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Milliseconds of each call, round by round until `ended`, after a warm-up."""
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    times_ms: dict[str, list[float]] = {name: [] for name in calls}
    while not ended(times_ms):
        for name, call in calls.items():
            start = clock()
            call()
            times_ms[name].append((clock() - start) * 1e3)
    return times_ms


def _cpu() -> str:
    """The name of this machine's CPU."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model"):
                return value.strip()
    return platform.machine()
