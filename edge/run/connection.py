"""`Connection`: one opening of a source, with timeouts, staleness and the driver watchdog."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edge.errors import SourceError
from edge.run.driver_watchdog import DriverWatchdog
from edge.run.liveness import MAX_DELAY, Freshness, StallTimeout
from edge.sources.feeds import FrameSource
from edge.sources.frame import Frame

__all__ = ["Connection"]


class Connection:
    """Reads one opened source, on one thread. clock: seconds, on the scale of `Frame.captured`."""

    def __init__(
        self,
        name: str,
        source: FrameSource,
        stall_timeout: StallTimeout,
        watchdog: DriverWatchdog,
        clock: Callable[[], float],
    ):
        self._name, self._source = name, source
        self._stall_timeout, self._watchdog, self._clock = stall_timeout, watchdog, clock
        self._freshness = Freshness(source.link, source.spacing)
        self._last_in_time = clock()

    @contextmanager
    def open(self, within: float) -> Iterator[None]:
        """Open the source within `within` seconds, and close it at the end. Raises SourceError."""
        with self._watchdog.call(within):
            self._source.__enter__()
        try:
            self._last_in_time = self._clock()
            yield
        finally:
            with self._watchdog.call():
                self._source.__exit__(None, None, None)

    def read(self) -> tuple[Frame, float, float] | None:
        """The next frame, when it was read, and when it expires; None at the end of the stream.

        Raises SourceError when the source fails or stalls, or when its frames stay delayed by more
        than `MAX_DELAY` for as long as the stall timeout.
        """
        timeout = self._stall_timeout.seconds(self._source.interval)
        self._check_delay(timeout)
        with self._watchdog.call(timeout):
            frame = self._source.read(timeout)
        if frame is None:
            return None
        now = self._clock()
        if not self._source.live:
            return frame, now, float("inf")
        return frame, now, self._freshness.expires(frame.number, frame.pts, frame.captured, now)

    def _check_delay(self, timeout: float) -> None:
        now, delay = self._clock(), self._freshness.delay
        if delay < MAX_DELAY:
            self._last_in_time = now
        elif now - self._last_in_time > timeout:
            raise SourceError(
                f"frames of {self._name} come {delay:.1f} s too late",
                "the network or this machine is too slow: use fewer cameras or smaller frames",
            )
