"""Benchmarks of several engines in one run, so that their ratio is reliable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edge.engine.timing import Timing, interleave

__all__ = ["side_by_side"]


class Timed(Protocol):
    """The part of `Engine` that a benchmark uses."""

    @property
    def input_shape(self) -> tuple[int, int, int]: ...

    @property
    def backend(self) -> str: ...

    def infer(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]: ...


def side_by_side(engines: Mapping[str, Timed], rounds: int) -> list[dict[str, Any]]:
    """A row per engine: median milliseconds for one image, and speed relative to the first."""
    generator = np.random.default_rng(0)

    def call(engine: Timed) -> Any:
        batch = generator.standard_normal((1, *engine.input_shape)).astype(np.float32)
        return lambda: engine.infer(batch)

    calls = {name: call(engine) for name, engine in engines.items()}
    timing, first = Timing(interleave(calls, rounds), ""), next(iter(calls))
    rows = []
    for name, engine in engines.items():
        speed = timing.speed(name, first)
        rows.append(
            {
                "engine": name,
                "backend": engine.backend,
                "ms": round(timing.ms(name), 3),
                "ms_min": round(min(timing.times_ms[name]), 3),
                "speed_ratio": round(speed.middle, 3),
                "speed_ratio_interval": [round(speed.low, 3), round(speed.high, 3)],
                "rounds": rounds,
            }
        )
    return rows
