"""The data of the live page: results of the last minute, transitions, events and counts.

The loop's thread writes; the threads of the web server read.
"""

from __future__ import annotations

import math
import secrets
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from edge.errors import printable
from edge.run.interfaces import Prediction, Result
from edge.run.status import SourceStatus, Status, Transition

__all__ = ["History"]

POINT_INTERVAL = 0.25  # seconds between two points of the charts, at least
CHART_SECONDS = 60.0  # seconds that the charts show
RATE_SECONDS = 5.0  # seconds over which the frame rate is measured
PERCENTILE_SECONDS = 1.0  # for which percentiles are cached: computing them takes milliseconds
TOP = 3  # classes per result
LABEL_LENGTH = 120  # characters; labels are also sent in an HTTP header
CHANGES = 20  # transitions that are kept per source
EVENTS = 30  # transitions and fired rules that are kept of all sources


@dataclass(frozen=True)
class _Point:
    """A point of the charts. at: on `Status.clock`. frames: the count of frames until then."""

    at: float
    frames: int
    age_ms: float
    latency_ms: float
    top: list[tuple[str, float]]


@dataclass
class _SourceHistory:
    """Recent results and transitions of one source."""

    frames: int = 0
    points: deque[_Point] = field(
        default_factory=lambda: deque(maxlen=int(CHART_SECONDS / POINT_INTERVAL))
    )
    changes: deque[tuple[float, Transition]] = field(default_factory=lambda: deque(maxlen=CHANGES))

    def copy(self) -> _SourceHistory:
        return _SourceHistory(self.frames, self.points.copy(), self.changes.copy())

    def rate(self, now: float) -> float:
        """Frames per second over the last `RATE_SECONDS`; 0 if there are too few frames."""
        recent = [point for point in self.points if now - point.at <= RATE_SECONDS]
        span = recent[-1].at - recent[0].at if recent else 0.0
        return (recent[-1].frames - recent[0].frames) / span if span else 0.0


class History:
    """The recent history of a run. All times that it returns are seconds since its creation."""

    def __init__(self, status: Status, engine: str = ""):
        """engine: its name and precision, for people."""
        self._status, self._engine = status, engine
        self._start = status.clock()
        self._run = secrets.token_hex(4)  # so that a page notices a new run
        self._histories: dict[str, _SourceHistory] = {}
        self._events: deque[list[Any]] = deque(maxlen=EVENTS)
        self._lock = threading.Lock()
        self._percentile_lock = threading.Lock()
        self._percentile_cache: dict[str, Any] = {}
        self._computed_at = self._start - PERCENTILE_SECONDS

    def write(self, result: Result) -> None:
        """Count a result; add a point to the charts every `POINT_INTERVAL`."""
        now = self._status.clock()
        with self._lock:
            history = self._histories.setdefault(result.frame.source, _SourceHistory())
            history.frames += 1
            due = not history.points or now - history.points[-1].at >= POINT_INTERVAL
        if due:
            top = _top(result.prediction)
            point = _Point(now, history.frames, result.age_ms, result.latency_ms, top)
            with self._lock:
                history.points.append(point)

    def about(self, result: Result) -> dict[str, Any]:
        """The data that is sent with the image of a result."""
        return {
            "at": self._time(self._status.clock()),
            "top": _top(result.prediction),
        }

    def changed(self, transition: Transition) -> None:
        with self._lock:
            history = self._histories.setdefault(transition.source, _SourceHistory())
            history.changes.append((self._status.clock(), transition))
            reason = printable(transition.reason)
            self._add_event(transition.source, transition.state, reason, transition.outage)

    def fired(self, result: Result, rules: Sequence[str]) -> None:
        """Record that rules became true with a result."""
        ((label, confidence), *_) = _top(result.prediction)
        text = f"{label}, {confidence:.0%}: {printable('; '.join(rules))}"
        with self._lock:
            self._add_event(result.frame.source, "rule", text, None)

    def _add_event(self, source: str, kind: str, text: str, outage: float | None) -> None:
        at = self._time(self._status.clock())
        self._events.append([at, printable(source), kind, text, outage])

    def state(self, run: str, since: float) -> dict[str, Any]:
        """The current state of the run, with the points after `since`.

        run, since: the `run` and `now` of the last answer that the client received. If `run` is
        another run, all points are returned. A point is [time, confidence, age ms, latency ms,
        label]. An event is [time, source, state or "rule", reason or rule, outage or None].
        """
        with self._lock:  # held only briefly: the loop needs it, too
            now = self._status.clock()
            histories = {name: history.copy() for name, history in self._histories.items()}
            events = list(self._events)
        received_until = self._start + since if run == self._run else -math.inf
        after = max(received_until, now - CHART_SECONDS)
        percentiles = self._percentiles(now)
        sources = [
            {
                **self._status_of(source, now),
                **self._recent(histories.get(source.name, _SourceHistory()), now, after),
                **percentiles[source.name],
            }
            for source in self._status.sources
            if source.name in percentiles
        ]
        return {
            "run": self._run,
            "now": self._time(now),
            "engine": self._engine,
            "backend": self._status.backend,
            "frame_path": self._status.frame_path,
            "frames": self._status.total.frames,
            "fps": round(sum(source["fps"] for source in sources), 1),
            **percentiles[""],
            "sources": sources,
            "events": events,
        }

    def knows(self, source: str) -> bool:
        return any(one.name == source for one in self._status.sources)

    def _status_of(self, source: SourceStatus, now: float) -> dict[str, Any]:
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

    def _recent(self, history: _SourceHistory, now: float, after: float) -> dict[str, Any]:
        newest = history.points[-1] if history.points else None
        return {
            "fps": round(history.rate(now), 1),
            "top": newest.top if newest else [],
            "at": self._time(newest.at) if newest else None,
            "points": [
                [
                    self._time(one.at),
                    one.top[0][1],
                    round(one.age_ms, 1),
                    round(one.latency_ms, 1),
                    one.top[0][0],
                ]
                for one in history.points
                if one.at > after
            ],
            "changes": [
                [self._time(at), one.state, printable(one.reason), one.outage]
                for at, one in history.changes
            ],
        }

    def _percentiles(self, now: float) -> dict[str, Any]:
        """Age and latency by source, "" for all; new sources appear in the next computation."""
        with self._percentile_lock:
            if now - self._computed_at >= PERCENTILE_SECONDS:
                status, self._computed_at = self._status, now
                tallies = {"": status.total} | {one.name: one.tally for one in status.sources}
                self._percentile_cache = {
                    name: {
                        "age_ms": tally.age.percentiles(),
                        "latency_ms": tally.latency.percentiles(),
                    }
                    for name, tally in tallies.items()
                }
            return self._percentile_cache

    def _time(self, clock: float) -> float:
        return round(clock - self._start, 3)


def _top(prediction: Prediction) -> list[tuple[str, float]]:
    """(label, confidence) of the best classes, short enough for an HTTP header."""
    best = prediction.top(TOP)
    return [
        (printable(label)[:LABEL_LENGTH], round(confidence, 4)) for _, label, confidence in best
    ]
