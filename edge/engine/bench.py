"""Benchmarks of several engines in one run, so that their ratio is reliable."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["interleave", "side_by_side"]

WARM_UP = 3


class Timed(Protocol):
    """The part of `Engine` that a benchmark uses."""

    @property
    def input_shape(self) -> tuple[int, int, int]: ...

    @property
    def backend(self) -> str: ...

    def infer(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]: ...


def interleave(calls: Mapping[str, Any], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each call, per round. Calls take turns: disturbances affect them all."""
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    times_ms: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times_ms[name].append((time.perf_counter() - start) * 1e3)
    return times_ms


def side_by_side(engines: Mapping[str, Timed], rounds: int) -> list[dict[str, Any]]:
    """A row per engine: median milliseconds for one image, and speed relative to the first."""
    generator = np.random.default_rng(0)

    def call(engine: Timed) -> Any:
        batch = generator.standard_normal((1, *engine.input_shape)).astype(np.float32)
        return lambda: engine.infer(batch)

    times_ms = interleave({name: call(engine) for name, engine in engines.items()}, rounds)
    medians = {name: statistics.median(times) for name, times in times_ms.items()}
    first = next(iter(medians.values()))
    return [
        {
            "engine": name,
            "backend": engines[name].backend,
            "ms": round(median, 3),
            "ms_min": round(min(times_ms[name]), 3),
            "speed_ratio": round(first / median, 3),
            "rounds": rounds,
        }
        for name, median in medians.items()
    ]
