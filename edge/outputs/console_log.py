"""The console log: a sink that reports each transition of a source as one line on stderr."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from edge.preprocess.surface import Layout
from edge.run.interfaces import Result, Sink
from edge.run.status import State, Transition
from edge.sources.frame import FramePath

__all__ = ["ConsoleLog"]

# A source that disconnects more often than this is reported as a whole, not each time.
_TURNED = {
    **{2: "mirrored", 3: "turned by 180 degrees", 4: "mirrored and turned by 180 degrees"},
    **{5: "mirrored and turned by 270 degrees", 6: "turned by 90 degrees"},
    **{7: "mirrored and turned by 90 degrees", 8: "turned by 270 degrees"},
}  # by the EXIF orientation, clockwise
_MAX_LOSSES, _PERIOD = 6, 60.0  # disconnects, per this number of seconds


class ConsoleLog(Sink):
    """Reports the format of each source, when and why it is lost, and when it is back."""

    def __init__(
        self,
        info: Callable[[str], None],
        warn: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ):
        self._info, self._warn, self._clock = info, warn, clock
        self._losses: dict[str, deque[float]] = {}  # times at which each source was lost
        self._warned_at: dict[str, float] = {}  # when frequent losses were last reported
        self._formats: dict[str, tuple[Layout, FramePath]] = {}
        self._states: dict[str, State] = {}
        self._held: dict[str, Transition] = {}  # newest unreported transition of flapping sources

    def write(self, result: Result) -> None:
        frame = result.frame
        layout = frame.surface.layout
        if self._formats.get(frame.source) != (layout, frame.path):  # first frame, or a new mode
            self._formats[frame.source] = layout, frame.path
            shape = f"{layout.width}x{layout.height} {layout.format}"
            turned = f", {_TURNED[layout.orientation]}" if layout.orientation != 1 else ""
            self._info(f"{frame.source}: {shape} in {frame.path} memory{turned}")

    def changed(self, transition: Transition) -> None:
        self.heartbeat()
        name, before = transition.source, self._states.get(transition.source)
        self._states[name] = transition.state
        if transition.state in ("failed", "ended"):  # final, so it is reported even while flapping
            self._losses.pop(name, None)
            self._held.pop(name, None)
            self._report(transition)
        elif (before == "playing" and self._count_loss(name)) or name in self._held:
            self._held[name] = transition
        else:
            self._report(transition)

    def heartbeat(self) -> None:
        """Report the state of sources that no longer flap. Call it regularly."""
        for name in [name for name in self._held if not self._is_flapping(name)]:
            transition = self._held.pop(name)
            if transition.state == "playing":
                self._info(f"{name} is connected again and stable")
            else:
                self._report(transition)

    def _report(self, transition: Transition) -> None:
        name, reason = transition.source, transition.reason
        if transition.state == "waiting":
            problem = reason if name in reason else f"{name}: {reason}"
            self._warn(f"{problem}; trying again")
        elif transition.state == "failed":
            # If no other source is left, this error ends the run and is reported there.
            if any(state not in ("failed", "ended") for state in self._states.values()):
                self._warn(reason if name in reason else f"{name}: {reason}")
        elif transition.state == "ended" and reason:
            self._info(f"{name}: {reason}")
        elif transition.state == "playing" and transition.outage is not None:
            self._info(f"{name} is connected again after {transition.outage:.1f} s without a frame")

    def _count_loss(self, name: str) -> bool:
        """Count the loss of a source. Return whether it flaps; warn of that once per period."""
        now = self._clock()
        self._losses.setdefault(name, deque(maxlen=_MAX_LOSSES + 1)).append(now)
        if not self._is_flapping(name):
            return False
        if now - self._warned_at.get(name, float("-inf")) > _PERIOD:
            self._warned_at[name] = now
            self._warn(
                f"{name} disconnects more than {_MAX_LOSSES} times a minute; it is still "
                "reconnected each time, but not reported each time"
            )
        return True

    def _is_flapping(self, name: str) -> bool:
        losses = self._losses[name]
        return len(losses) > _MAX_LOSSES and self._clock() - losses[0] <= _PERIOD
