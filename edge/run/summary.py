"""What a run measured: frames, rates, and percentiles in a bounded amount of memory."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Histogram", "Percentiles", "Summary", "Tally"]

Percentiles = dict[str, float | None]


class Histogram:
    """Durations in milliseconds, counted in bins 1 % wide.

    A percentile is within 0.5 % of the sample's own (nearest rank), from 1 us to 10,000 s, after
    any number of durations: the memory is some 2,300 integers.
    """

    _LOW = 1e-3
    _STEP = math.log(1.01)
    _BINS = math.ceil(math.log(1e7 / _LOW) / _STEP)

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0.0
        self._bins = array("Q", bytes(8 * self._BINS))  # a list's integers would grow with them

    def add(self, ms: float) -> None:
        place = int(math.log(max(ms, self._LOW) / self._LOW) / self._STEP)
        self._bins[min(place, self._BINS - 1)] += 1
        self.count += 1
        self.sum += ms

    def merge(self, other: Histogram) -> None:
        """Add what `other` counted."""
        for place, count in enumerate(other._bins):
            self._bins[place] += count
        self.count += other.count
        self.sum += other.sum

    def up_to(self, bounds: Sequence[float]) -> list[int]:
        """How many durations do not exceed each of these milliseconds, within a bin's width."""
        bins = self._bins[:]
        ends = [int(math.log(max(bound, self._LOW) / self._LOW) / self._STEP) for bound in bounds]
        return [sum(bins[: end + 1]) for end in ends]

    def percentile(self, percent: float) -> float | None:
        """The duration that `percent` of all durations do not exceed; None when there are none."""
        rank, seen = max(1, math.ceil(self.count * percent / 100)), 0
        for place, count in enumerate(self._bins):
            seen += count
            if seen >= rank:
                return self._LOW * math.exp((place + 0.5) * self._STEP)
        return None

    def percentiles(self) -> Percentiles:
        """`{"p50": ..., "p90": ..., "p99": ...}`, rounded to what the bins can tell."""
        values = {f"p{percent}": self.percentile(percent) for percent in (50, 90, 99)}
        return {name: None if ms is None else float(f"{ms:.4g}") for name, ms in values.items()}


@dataclass
class Tally:
    """The frames of one source, or of all of them."""

    frames: int = 0
    age: Histogram = field(default_factory=Histogram)
    latency: Histogram = field(default_factory=Histogram)
    began: float = 0.0
    first: float = 0.0
    ended: float = 0.0

    def add(self, age_ms: float, latency_ms: float, taken: float, ready: float) -> None:
        """Count a frame: taken from its source and labelled at these seconds."""
        if self.frames == 0:
            self.began, self.first = taken, ready
        self.ended = ready
        self.frames += 1
        self.age.add(age_ms)
        self.latency.add(latency_ms)

    @property
    def seconds(self) -> float:
        """From the first frame taken to the last result: the time to connect is not in it."""
        return self.ended - self.began

    @property
    def fps(self) -> float:
        """Results per second after the first one: n results have n - 1 intervals between them."""
        span = self.ended - self.first
        return (self.frames - 1) / span if span > 0 else 0.0

    def numbers(self) -> dict[str, Any]:
        """frames, seconds, fps, age_ms and latency_ms."""
        return {
            "frames": self.frames,
            "seconds": round(self.seconds, 3),
            "fps": round(self.fps, 2),
            "age_ms": self.age.percentiles(),
            "latency_ms": self.latency.percentiles(),
        }


@dataclass
class Summary:
    """A run in numbers. Milliseconds as p50, p90, p99, null when nothing was measured.

    dropped     frames of live sources that gave way to newer ones before they were labelled
    stale       frames of live sources that came too late to be called current, and were left out
    reconnects  times that a source played again after it had stopped to
    stages_ms   preprocess per frame, infer per batch; on a GPU, where preprocess is the copy to
                memory that it reads, also gpu, and gpu_preprocess, gpu_network and gpu_download
    sources     per source: frames, dropped, stale, reconnects, seconds, fps, age_ms, latency_ms
    """

    backend: str
    frame_path: str
    frames: int
    dropped: int
    stale: int
    reconnects: int
    seconds: float
    fps: float
    age_ms: Percentiles
    latency_ms: Percentiles
    stages_ms: dict[str, Percentiles]
    sources: dict[str, dict[str, Any]]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)
