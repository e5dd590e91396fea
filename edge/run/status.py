"""`Status`: the live state and counts of a run, written by the loop, read by metrics and pages.

connecting --> playing --> ended      a file's last frame, or the source was removed
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
    """A change of the state of a source.

    source   its name, without credentials
    state    the new state
    reason   why, as a text for people; may be empty
    outage   seconds between the last frame before a reconnect and the first one after it; only for
             a change to `playing` after an outage, else None
    """

    source: str
    state: State
    reason: str = ""
    outage: float | None = None


@dataclass
class SourceStatus:
    """The state and counts of one source. Counts run from the start of the run, over reconnects.

    since          `clock()` seconds of the last change of state
    last_labelled  `clock()` seconds of the last frame that was labelled; None before the first
    dropped        live frames that a newer one replaced before they were labelled
    stale          live frames that were too old to be labelled
    reconnects     number of reconnects
    tally          frames labelled, their age and latency
    preprocess     milliseconds to prepare each frame
    """

    name: str
    state: State = "connecting"
    reason: str = ""
    since: float = 0.0
    last_labelled: float | None = None
    dropped: int = 0
    stale: int = 0
    reconnects: int = 0
    tally: Tally = field(default_factory=Tally)
    preprocess: Histogram = field(default_factory=Histogram)


class Status:
    """The sources of a run and the durations of its stages. Read it from any thread.

    stuck  no source plays and the driver of at least one hangs: only a new process can help.
           Cameras that are merely off do not make a run stuck

    Values are read while the run goes on: each is correct, but sums may differ by a frame.
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
        """Every source that was ever in this run, in the order in which they were added."""
        with self._lock:
            return list(self._sources.values())

    def add(self, name: str) -> SourceStatus:
        """The status of a source; a name that was added before keeps its status."""
        with self._lock:
            return self._sources.setdefault(name, SourceStatus(name, since=self.clock()))

    def change(self, transition: Transition) -> None:
        """Record the new state of a source."""
        source = self.add(transition.source)
        source.state, source.reason = transition.state, transition.reason
        source.since = self.clock()
        if transition.outage is not None:
            source.reconnects += 1

    def stage(self, name: str, ms: float) -> None:
        """Count the milliseconds of one stage of a batch."""
        with self._lock:
            histogram = self.stages.setdefault(name, Histogram())
        histogram.add(ms)

    def summary(self) -> Summary:
        """The measurements up to now."""
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
