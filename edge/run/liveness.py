"""How long to wait for a camera, and how late its frames may be: arithmetic without a clock."""

from __future__ import annotations

import random
import statistics
from collections import deque
from collections.abc import Callable

from edge.sources.ages import Ages
from edge.sources.feeds import Link

__all__ = ["BEHIND", "Freshness", "StallTimeout", "backoff"]

BEHIND = 1.0  # seconds: not jitter, but a queue, from whose end only a new connection takes us

_SHORTEST, _LONGEST = 0.1, 1.0  # seconds between two tries to open a camera
_LOCKED_OUT = 60.0  # cameras bar who comes too often with a wrong password
_MISSED = 60  # frames that a camera misses before it is taken for dead
_INTERVALS = 3  # that a slow camera may be silent
_ALIVE = 2.0  # seconds of silence that a Wi-Fi or a switch may cause
_STRETCH = 16  # times `stall`, at most, for a camera that turns out to be slow
_WINDOW = 2.0  # seconds over which the age of the freshest frame is known
_LATE = 2  # frame intervals
_LATEST = 3  # intervals whose median counts: what holds frames up makes one of them longer
_STARTED = 0.25  # seconds that a picture may take: more, at first, is this program's own start
_UNKNOWN = 0.05  # seconds between the first two frames: they are not to wait for a slow start


def backoff(
    failures: int, *, refused: bool = False, uniform: Callable[[float, float], float] | None = None
) -> float:
    """Seconds until a camera is tried again, after so many failures in a row.

    Doubled each time, up to a second: a try costs one connection, and the camera that comes back is
    to be seen at once. Jittered, so that cameras behind one switch are not all tried together.
    refused: it did not accept the password; then up to a minute.
    """
    longest = _LOCKED_OUT if refused else _LONGEST
    most = min(longest, _SHORTEST * (16 if refused else 1) * 2.0 ** min(failures, 16))
    return (uniform or random.uniform)(most / 2, most)


class StallTimeout:
    """How long a source may be silent before it is opened anew.

    A camera that sent 30 frames a second is dead after two seconds, one that sends a frame a minute
    is not: the wait follows the interval of its frames, and is doubled while too few came to know.
    """

    def __init__(self, stall: float):
        """stall: seconds of silence to wait through while nothing is known of the source."""
        self._stall = stall
        self._stretch = 1.0

    def seconds(self, interval: float | None) -> float:
        """What to wait for the next frame; interval: between the latest frames, in seconds.

        An interval that is known is remembered: for when the source is opened anew.
        """
        if interval is None:
            return self._stall * self._stretch
        self._stretch = max(1.0, _INTERVALS * interval / self._stall)
        expected = min(max(_ALIVE, _MISSED * interval), self._stall)
        return round(max(expected, _INTERVALS * interval), 1)

    def timed_out(self, interval: float | None) -> None:
        """The wait was in vain; interval: None when not two frames had come."""
        if interval is None:
            self._stretch = max(self._stretch, min(2 * self._stretch, _STRETCH))


class Freshness:
    """Until when a frame of a live source is current: two frame intervals more than the freshest.

    Cameras and decoders each add a delay that stays the same, so that a frame is late by comparison
    with the youngest there was. Networks change theirs: what all frames share for some seconds that
    came over one is its delay, and no lateness. A picture of a source that is thinned out stands
    for longer: for it the intervals are those between pictures that are wanted.

    behind  seconds by which the latest frame was later than the freshest there ever was
    """

    def __init__(self, link: Link, spacing: Callable[[float], float] = lambda interval: interval):
        """link, spacing: of the source, see `edge.sources.feeds.FrameSource`."""
        self.behind = 0.0
        self._link, self._spacing = link, spacing
        self._opened: float | None = None
        self._ages = Ages()
        self._intervals: deque[float] = deque(maxlen=_LATEST)
        self._before: tuple[int, float, float] | None = None
        self._youngest = self._youngest_before = float("inf")
        self._began = float("-inf")

    def expires(self, number: int, pts: float | None, captured: float, now: float) -> float:
        """The second, on the scale of `captured` and `now`, after which the frame is stale.

        number, pts: its place among the source's frames, and its stream time in seconds.
        """
        self.behind = self._ages.age(captured, now)
        self._opened = now if self._opened is None else self._opened
        if self._link != "local" and now - self._began > _WINDOW:
            self._youngest_before, self._youngest = self._youngest, float("inf")
            self._began = now
        self._youngest = min(self._youngest, now - captured)
        if pts is None and self._before is None:
            return float("inf")
        if pts is not None:
            self._measure(number, pts, captured)
        delay = min(self._youngest, self._youngest_before)
        if self._link != "unknown" and now - self._opened < _WINDOW:
            delay = min(delay, _STARTED)
        interval = statistics.median_low(self._intervals or [_UNKNOWN])
        return captured + delay + _LATE * self._spacing(interval)

    def _measure(self, number: int, pts: float, captured: float) -> None:
        """An interval of the frames: by stream time, but for what that never was."""
        if self._before is not None and number > self._before[0] and pts > self._before[1]:
            passed = min(pts - self._before[1], 2 * (captured - self._before[2]) + _UNKNOWN)
            self._intervals.append(max(0.0, passed) / (number - self._before[0]))
        self._before = number, pts, captured
