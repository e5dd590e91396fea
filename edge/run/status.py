"""How the run is doing: what the loop writes while it runs, and what metrics and pages read.

connecting --> playing --> ended      a file's last frame, or the source was taken out
    ^  |          |
    |  v          v
   waiting <------'  --> failed       will not be tried again
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from edge.run.summary import Histogram, Summary, Tally

__all__ = ["SourceStatus", "State", "Status", "Transition"]

State: TypeAlias = Literal["connecting", "playing", "waiting", "ended", "failed"]


@dataclass(frozen=True)
class Transition:
    """A source went from one state to another.

    source   its name, without credentials
    state    what it is in now
    reason   why, in words for people; empty where there is nothing to say
    outage   seconds without a frame that end with this transition to `playing`; else None
    """

    source: str
    state: State
    reason: str = ""
    outage: float | None = None


@dataclass
class SourceStatus:
    """One source; all counts are from the start of the run, over every reconnect.

    tally        frames labelled, their age and latency
    preprocess   milliseconds that the reader took to prepare each frame
    dropped      frames that gave way to a newer one
    stale        frames that came too late to be called current, and were left out
    reconnects   times that it played again after it had stopped to
    since        `clock()` seconds of the last change of state
    seen         `clock()` seconds of the last frame that was labelled; None before the first
    """

    name: str
    state: State = "connecting"
    reason: str = ""
    since: float = 0.0
    seen: float | None = None
    dropped: int = 0
    stale: int = 0
    reconnects: int = 0
    tally: Tally = field(default_factory=Tally)
    preprocess: Histogram = field(default_factory=Histogram)


class Status:
    """All sources of a run, and what its stages took. Read it from any thread.

    stuck  no source plays, and the driver of one hangs: only a new process can help. That cameras
           are merely off is no reason for one

    Its numbers are read while others count on: each is right, their sums may differ by a frame.
    """

    def __init__(
        self, backend: str = "", frame_path: str = "", clock: Callable[[], float] = time.monotonic
    ):
        self.backend = backend
        self.frame_path = frame_path
        self.clock = clock
        self.stuck = False
        self.total = Tally()
        self.stages: dict[str, Histogram] = {}
        self._sources: dict[str, SourceStatus] = {}
        self._lock = threading.Lock()

    @property
    def sources(self) -> list[SourceStatus]:
        """Every source that was ever in this run, in the order in which they came."""
        with self._lock:
            return list(self._sources.values())

    def add(self, name: str) -> SourceStatus:
        """The status of a source; of one that was here before, the same again."""
        with self._lock:
            return self._sources.setdefault(name, SourceStatus(name, since=self.clock()))

    def change(self, transition: Transition) -> None:
        """Write down what state a source is in now."""
        source = self.add(transition.source)
        source.state, source.reason = transition.state, transition.reason
        source.since = self.clock()
        if transition.outage is not None:
            source.reconnects += 1

    def stage(self, name: str, ms: float) -> None:
        """Count what a stage of a batch took."""
        with self._lock:
            histogram = self.stages.setdefault(name, Histogram())
        histogram.add(ms)

    def summary(self) -> Summary:
        """What was measured up to now."""
        preprocess, infer = Histogram(), self.stages.get("infer", Histogram())
        sources = {}
        for source in self.sources:
            preprocess.merge(source.preprocess)
            sources[source.name] = {
                **source.tally.numbers(),
                "dropped": source.dropped,
                "stale": source.stale,
                "reconnects": source.reconnects,
            }
        stages = {"preprocess": preprocess, "infer": infer, **self.stages}
        return Summary(
            backend=self.backend,
            frame_path=self.frame_path,
            dropped=sum(source.dropped for source in self.sources),
            stale=sum(source.stale for source in self.sources),
            reconnects=sum(source.reconnects for source in self.sources),
            stages_ms={name: histogram.percentiles() for name, histogram in stages.items()},
            sources=sources,
            **self.total.numbers(),
        )
