"""Timing rules for live sources: backoff, stall timeout, staleness. Arithmetic without a clock."""

from __future__ import annotations

import random
import statistics
from collections import deque
from collections.abc import Callable

from edge.sources.ages import Ages
from edge.sources.feeds import Link

__all__ = ["MAX_DELAY", "Freshness", "StallTimeout", "backoff"]

# Seconds. A longer delay is not jitter but a queue on the way; only a new connection empties it.
MAX_DELAY = 1.0

_BACKOFF_FIRST, _BACKOFF_MAX = 0.1, 1.0  # seconds between two attempts to open a source
_BACKOFF_MAX_REFUSED = 60.0  # cameras block an address after a few wrong passwords

_MISSED_FRAMES = 60  # a fast camera stalls when it has missed this number of frames
_MISSED_INTERVALS = 3  # a slow one, when it is silent for this number of intervals
_MIN_STALL = 2.0  # seconds of silence that Wi-Fi or a switch may cause
_MAX_FACTOR = 16  # by which the stall timeout grows at most for a camera of unknown rate

_WINDOW = 2.0  # seconds over which the delay of the youngest frame is measured
_STALE_INTERVALS = 2  # a frame is stale this number of frame intervals after a fresh one
_MEDIAN_OF = 3  # intervals: a hold-up makes one of them longer, not their median
_MAX_START_DELAY = 0.25  # seconds: a longer delay at first is this program's own start
_ASSUMED_INTERVAL = 0.05  # seconds, before two frames have come


def backoff(
    failures: int, *, refused: bool = False, uniform: Callable[[float, float], float] | None = None
) -> float:
    """Seconds to wait before the next attempt, after this many consecutive failures.

    The wait doubles up to one second: an attempt costs only one connection, and a camera that is
    back should be noticed at once. It is jittered, so that cameras behind one switch are not all
    retried together. refused: the camera rejected the password; the wait grows to a minute.
    """
    limit = _BACKOFF_MAX_REFUSED if refused else _BACKOFF_MAX
    longest = min(limit, _BACKOFF_FIRST * (16 if refused else 1) * 2.0 ** min(failures, 16))
    return (uniform or random.uniform)(longest / 2, longest)


class StallTimeout:
    """How long a source may send no frame before it is reconnected.

    A camera with 30 frames a second is dead after two seconds of silence, one with a frame a minute
    is not. So the timeout follows the frame interval; while that is unknown, the timeout doubles
    with each stall.
    """

    def __init__(self, default: float):
        """default: the timeout in seconds while nothing is known about the source."""
        self._default = default
        self._factor = 1.0

    def seconds(self, interval: float | None) -> float:
        """The timeout for the next frame. interval: between the latest frames, in seconds.

        A known interval is remembered for the next connection.
        """
        if interval is None:
            return self._default * self._factor
        self._factor = max(1.0, _MISSED_INTERVALS * interval / self._default)
        timeout = min(max(_MIN_STALL, _MISSED_FRAMES * interval), self._default)
        return round(max(timeout, _MISSED_INTERVALS * interval), 1)

    def timed_out(self, interval: float | None) -> None:
        """The source has stalled. interval: None if fewer than two frames had come."""
        if interval is None:
            self._factor = max(self._factor, min(2 * self._factor, _MAX_FACTOR))


class Freshness:
    """When frames of one connection to a live source become stale.

    A frame is stale two frame intervals after a fresh frame would have arrived. Cameras and
    decoders add a constant delay, so lateness is measured against the youngest frame seen. The
    delay of a network may change: over a network (or an unknown link) lateness is measured against
    the youngest frame of the last seconds only, since the delay that these share is the network's.
    For a thinned source the interval is that between wanted frames, so its frames stay fresh for
    longer.

    delay  seconds by which the latest frame was later than the freshest frame of the connection
    """

    def __init__(self, link: Link, spacing: Callable[[float], float] = lambda interval: interval):
        """link, spacing: of the source, see `edge.sources.feeds.FrameSource`."""
        self.delay = 0.0
        self._link, self._spacing = link, spacing
        self._opened: float | None = None
        self._ages = Ages()
        self._intervals: deque[float] = deque(maxlen=_MEDIAN_OF)
        self._previous: tuple[int, float, float] | None = None  # number, pts, captured
        # The least age in this window of `_WINDOW` seconds, and in the window before it.
        self._youngest = self._youngest_before = float("inf")
        self._window_start = float("-inf")

    def expires(self, number: int, pts: float | None, captured: float, now: float) -> float:
        """The time after which the frame is stale, in seconds on the scale of `captured` and `now`.

        number: of the frame within its source. pts: its stream time in seconds, if it has one.
        """
        self.delay = self._ages.age(captured, now)
        self._opened = now if self._opened is None else self._opened
        if self._link != "local" and now - self._window_start > _WINDOW:
            self._youngest_before, self._youngest = self._youngest, float("inf")
            self._window_start = now
        self._youngest = min(self._youngest, now - captured)
        if pts is None and self._previous is None:
            return float("inf")
        if pts is not None:
            self._measure_interval(number, pts, captured)
        usual_age = min(self._youngest, self._youngest_before)
        if self._link != "unknown" and now - self._opened < _WINDOW:
            usual_age = min(usual_age, _MAX_START_DELAY)
        interval = statistics.median_low(self._intervals or [_ASSUMED_INTERVAL])
        return captured + usual_age + _STALE_INTERVALS * self._spacing(interval)

    def _measure_interval(self, number: int, pts: float, captured: float) -> None:
        """Add a frame interval: by stream time, limited to what capture times make plausible."""
        if self._previous is not None:
            last_number, last_pts, last_captured = self._previous
            if number > last_number and pts > last_pts:
                plausible = 2 * (captured - last_captured) + _ASSUMED_INTERVAL
                elapsed = max(0.0, min(pts - last_pts, plausible))
                self._intervals.append(elapsed / (number - last_number))
        self._previous = number, pts, captured
