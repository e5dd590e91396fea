"""Results as text for people: a refreshing line on a terminal, otherwise a line per new label."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from edge.errors import printable
from edge.outputs.json_lines import utc
from edge.run.interfaces import Result, Sink
from edge.run.status import Transition

__all__ = ["NewLabels", "TerminalLine"]

_INTERVAL = 0.2  # seconds between two updates of the line
_RATE_SECONDS = 2.0  # over which frames per second are measured


class NewLabels:
    """Function (result) -> a line when the label of its source is another one; else None.

    `2025-01-31T11:59:59.750Z door tabby cat 97.3 %`
    """

    def __init__(self) -> None:
        self._labels: dict[str, str] = {}

    def __call__(self, result: Result) -> str | None:
        source, ((_, label, confidence),) = result.frame.source, result.prediction.top(1)
        if self._labels.get(source) == label:
            return None
        self._labels[source] = label
        return printable(f"{utc(result.time)} {source} {label} {confidence:.1%}").replace("%", " %")


class TerminalLine(Sink):
    """Shows the newest label of each source, its frame rate and age, on one line of a terminal."""

    def __init__(
        self, show: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """show: replaces the line; "" removes it."""
        self._show, self._clock = show, clock
        self._parts: dict[str, str] = {}
        self._times: dict[str, deque[float]] = {}  # of the frames of the last seconds, by source
        self._shown_at = float("-inf")

    def write(self, result: Result) -> None:
        now, source = self._clock(), result.frame.source
        times = self._times.setdefault(source, deque())
        times.append(now)
        while times[0] < now - _RATE_SECONDS:
            times.popleft()
        rate = (len(times) - 1) / (now - times[0]) if now > times[0] else 0.0
        ((_, label, confidence),) = result.prediction.top(1)
        self._parts[source] = (
            f"{label} {100 * confidence:.0f} %, {rate:.1f} fps, age {result.age_ms:.0f} ms"
        )
        if now - self._shown_at >= _INTERVAL:
            self._update(now)

    def changed(self, transition: Transition) -> None:
        if transition.state == "playing":
            self._parts.setdefault(transition.source, "playing")
        else:
            self._parts[transition.source] = transition.state
        self._update(self._clock())

    def close(self) -> None:
        self._show("")

    def _update(self, now: float) -> None:
        self._shown_at = now
        self._show(printable(" | ".join(f"{name}: {part}" for name, part in self._parts.items())))
