"""`Summary`: what a run measured, with percentiles in a bounded amount of memory."""

from __future__ import annotations

import json
import math
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Histogram", "Percentiles", "Summary", "Tally"]

Percentiles = dict[str, float | None]


class Histogram:
    """Durations in milliseconds, counted in bins 1 % wide.

    Percentiles are within 0.5 % of the exact ones (nearest rank) from 1 us to 10,000 s. The memory
    does not grow with the number of durations: it is some 2,300 integers.
    """

    _LOW = 1e-3
    _STEP = math.log(1.01)
    _BINS = math.ceil(math.log(1e7 / _LOW) / _STEP)

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0.0
        self._bins = array(
            "Q", bytes(8 * self._BINS)
        )  # a list would allocate an int object per count

    def add(self, ms: float) -> None:
        index = int(math.log(max(ms, self._LOW) / self._LOW) / self._STEP)
        self._bins[min(index, self._BINS - 1)] += 1
        self.count += 1
        self.sum += ms

    def merge(self, other: Histogram) -> None:
        """Add the durations of another histogram."""
        for index, count in enumerate(other._bins):
            self._bins[index] += count
        self.count += other.count
        self.sum += other.sum

    def up_to(self, bounds: Sequence[float]) -> list[int]:
        """How many durations are at most each bound in milliseconds, within the width of a bin."""
        bins = self._bins[:]
        ends = [int(math.log(max(bound, self._LOW) / self._LOW) / self._STEP) for bound in bounds]
        return [sum(bins[: end + 1]) for end in ends]

    def percentile(self, percent: float) -> float | None:
        """The milliseconds that `percent` of all durations do not exceed, or None."""
        rank, total = max(1, math.ceil(self.count * percent / 100)), 0
        for index, count in enumerate(self._bins):
            total += count
            if total >= rank:
                return self._LOW * math.exp((index + 0.5) * self._STEP)
        return None

    def percentiles(self) -> Percentiles:
        """`{"p50": ..., "p90": ..., "p99": ...}`, rounded to the precision of the bins."""
        values = {f"p{percent}": self.percentile(percent) for percent in (50, 90, 99)}
        return {name: None if ms is None else float(f"{ms:.4g}") for name, ms in values.items()}


@dataclass
class Tally:
    """The labelled frames of one source, or of all: their number, labels, ages and latencies."""

    frames: int = 0
    labels: Counter[str] = field(default_factory=Counter)  # most probable label -> frames
    age: Histogram = field(default_factory=Histogram)
    latency: Histogram = field(default_factory=Histogram)
    first_read: float = 0.0
    first_ready: float = 0.0
    last_ready: float = 0.0

    def add(
        self, age_ms: float, latency_ms: float, read_at: float, ready: float, label: str = ""
    ) -> None:
        """Count a frame. read_at, ready: seconds at which it was read and labelled."""
        if self.frames == 0:
            self.first_read, self.first_ready = read_at, ready
        self.last_ready = ready
        self.frames += 1
        self.labels[label] += 1
        self.age.add(age_ms)
        self.latency.add(latency_ms)

    @property
    def seconds(self) -> float:
        """From the first frame read to the last result, so without the time to connect."""
        return self.last_ready - self.first_read

    @property
    def fps(self) -> float:
        """Results per second: n results have n - 1 intervals between them."""
        span = self.last_ready - self.first_ready
        return (self.frames - 1) / span if span > 0 else 0.0

    def numbers(self) -> dict[str, Any]:
        """frames, labels, seconds, fps, age_ms and latency_ms."""
        return {
            "frames": self.frames,
            "labels": dict(self.labels.most_common()),
            "seconds": round(self.seconds, 3),
            "fps": round(self.fps, 2),
            "age_ms": self.age.percentiles(),
            "latency_ms": self.latency.percentiles(),
        }


@dataclass
class Summary:
    """The measurements of a run. Milliseconds are p50, p90 and p99; null if nothing was measured.

    labels      most probable label -> number of frames, the most frequent first
    dropped     live frames that a newer one replaced before they were labelled
    stale       live frames that were too old to be labelled
    reconnects  number of reconnects of all sources
    stages_ms   preprocess per frame, infer per batch. On a GPU preprocess is the copy to memory
                that the GPU reads; there are also gpu, gpu_preprocess, gpu_network, gpu_download
    sources     per source: frames, labels, dropped, stale, reconnects, seconds, fps, age_ms,
                latency_ms
    """

    backend: str
    frame_path: str
    frames: int
    labels: dict[str, int]
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
