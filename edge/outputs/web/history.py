"""What the live page tells of a run: the last minute's results, the changes of state, the counts.

The loop writes, on its one thread; browsers' threads read.
"""

from __future__ import annotations

import math
import secrets
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from edge.errors import printable
from edge.run.interfaces import Prediction, Result
from edge.run.status import SourceStatus, Status, Transition

__all__ = ["History"]

EVERY = 0.25  # seconds from one point of the charts to the next at least
MINUTE = 60.0  # seconds that the charts reach back
RATE = 5.0  # seconds over which frames are counted for their rate
FRESH = 1.0  # seconds that percentiles are good for: to count them out takes milliseconds
TOP = 3  # classes shown
LETTERS = 120  # of a label: it travels in a header, too
CHANGES = 20  # changes of state that are kept of each source


@dataclass(frozen=True)
class _Point:
    """A result, as the charts show it. `at` is on `Status.clock`; `frames` came until then."""

    at: float
    frames: int
    age_ms: float
    latency_ms: float
    top: list[tuple[str, float]]


@dataclass
class _SourceHistory:
    """What happened at a source lately."""

    frames: int = 0
    points: deque[_Point] = field(default_factory=lambda: deque(maxlen=int(MINUTE / EVERY)))
    changes: deque[tuple[float, Transition]] = field(default_factory=lambda: deque(maxlen=CHANGES))

    def copy(self) -> _SourceHistory:
        return _SourceHistory(self.frames, self.points.copy(), self.changes.copy())

    def rate(self, now: float) -> float:
        """Frames per second over the last `RATE` seconds; 0 when too few came to tell."""
        late = [point for point in self.points if now - point.at <= RATE]
        span = late[-1].at - late[0].at if late else 0.0
        return (late[-1].frames - late[0].frames) / span if span else 0.0


class History:
    """The newest of everything. All times that it tells are seconds since it was made."""

    def __init__(self, status: Status):
        self._status = status
        self._began = status.clock()
        self._run = secrets.token_hex(4)  # a page that was open before sees that this is another
        self._histories: dict[str, _SourceHistory] = {}
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        self._measured: dict[str, Any] = {}
        self._measured_at = self._began - FRESH

    def write(self, result: Result) -> None:
        """Count a result, and now and then take it down."""
        now = self._status.clock()
        with self._lock:
            history = self._histories.setdefault(result.frame.source, _SourceHistory())
            history.frames += 1
            due = not history.points or now - history.points[-1].at >= EVERY
        if due:
            top = _top(result.prediction)
            point = _Point(now, history.frames, result.age_ms, result.latency_ms, top)
            with self._lock:
                history.points.append(point)

    def about(self, result: Result) -> dict[str, Any]:
        """What is told beside the picture of a result."""
        return {
            "at": self._time(self._status.clock()),
            "top": _top(result.prediction),
        }

    def changed(self, transition: Transition) -> None:
        with self._lock:
            history = self._histories.setdefault(transition.source, _SourceHistory())
            history.changes.append((self._status.clock(), transition))

    def state(self, run: str, since: float) -> dict[str, Any]:
        """The run as it is now, with those points that came after `since`.

        `run` and `since` are the `run` and the `now` that the asker got last; of another run it
        gets all points. A point is [time, confidence, age in ms, latency in ms].
        """
        with self._lock:  # the loop writes under it: nothing here takes long
            now = self._status.clock()
            stories = {name: history.copy() for name, history in self._histories.items()}
        had = self._began + since if run == self._run else -math.inf
        after = max(had, now - MINUTE)
        measured = self._percentiles(now)
        sources = [
            {
                **self._source(source, now),
                **self._told(stories.get(source.name, _SourceHistory()), now, after),
                **measured[source.name],
            }
            for source in self._status.sources
            if source.name in measured
        ]
        return {
            "run": self._run,
            "now": self._time(now),
            "backend": self._status.backend,
            "frame_path": self._status.frame_path,
            "frames": self._status.total.frames,
            "fps": round(sum(source["fps"] for source in sources), 1),
            **measured[""],
            "sources": sources,
        }

    def knows(self, source: str) -> bool:
        return any(one.name == source for one in self._status.sources)

    def _source(self, source: SourceStatus, now: float) -> dict[str, Any]:
        return {
            "name": source.name,
            "state": source.state,
            "reason": printable(source.reason),
            "for": round(now - source.since, 1),
            "frames": source.tally.frames,
            "dropped": source.dropped,
            "stale": source.stale,
            "reconnects": source.reconnects,
        }

    def _told(self, history: _SourceHistory, now: float, after: float) -> dict[str, Any]:
        newest = history.points[-1] if history.points else None
        return {
            "fps": round(history.rate(now), 1),
            "top": newest.top if newest else [],
            "at": self._time(newest.at) if newest else None,
            "points": [
                [self._time(one.at), one.top[0][1], round(one.age_ms, 1), round(one.latency_ms, 1)]
                for one in history.points
                if one.at > after
            ],
            "changes": [
                [self._time(at), one.state, printable(one.reason), one.outage]
                for at, one in history.changes
            ],
        }

    def _percentiles(self, now: float) -> dict[str, Any]:
        """Age and latency by name, "" for all; a source that came since is in the next count."""
        with self._counting:
            if now - self._measured_at >= FRESH:
                status, self._measured_at = self._status, now
                tallies = {"": status.total} | {one.name: one.tally for one in status.sources}
                self._measured = {
                    name: {
                        "age_ms": tally.age.percentiles(),
                        "latency_ms": tally.latency.percentiles(),
                    }
                    for name, tally in tallies.items()
                }
            return self._measured

    def _time(self, clock: float) -> float:
        return round(clock - self._began, 3)


def _top(prediction: Prediction) -> list[tuple[str, float]]:
    """(label, confidence) of the best classes, short enough to be sent with each picture."""
    best = prediction.top(TOP)
    return [(printable(label)[:LETTERS], round(sure, 4)) for _, label, sure in best]
