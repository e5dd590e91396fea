"""What a person is told while a run goes on: one line per transition, on stderr."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from edge.preprocess.surface import Layout
from edge.run.interfaces import Result, Sink
from edge.run.status import State, Transition
from edge.sources.frame import FramePath

__all__ = ["ConsoleLog"]

_OFTEN, _MINUTE = 6, 60.0


class ConsoleLog(Sink):
    """Says what each source delivers, when it stops to, why, and when it comes back."""

    def __init__(
        self,
        info: Callable[[str], None],
        warn: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ):
        self._info, self._warn, self._clock = info, warn, clock
        self._lost: dict[str, deque[float]] = {}  # when each source stopped to play
        self._told: dict[str, float] = {}  # when it was said that one comes and goes
        self._seen: dict[str, tuple[Layout, FramePath]] = {}
        self._states: dict[str, State] = {}
        self._held: dict[str, Transition] = {}  # the latest, unsaid, of those that come and go

    def write(self, result: Result) -> None:
        frame = result.frame
        seen = frame.surface.layout, frame.path
        if self._seen.get(frame.source) != seen:  # at first, and when a camera changes its mode
            self._seen[frame.source] = seen
            layout = seen[0]
            shape = f"{layout.width}x{layout.height} {layout.format}"
            self._info(f"{frame.source}: {shape} in {frame.path} memory")

    def changed(self, transition: Transition) -> None:
        self.heartbeat()
        name, before = transition.source, self._states.get(transition.source)
        self._states[name] = transition.state
        if transition.state in ("failed", "ended"):  # for good: that it came and went is past
            self._lost.pop(name, None)
            self._held.pop(name, None)
            self._tell(transition)
        elif (before == "playing" and self._flaps(name)) or name in self._held:
            self._held[name] = transition
        else:
            self._tell(transition)

    def heartbeat(self) -> None:
        """Say how it stands with those that came and went, and do no more; called all the time."""
        for name in [name for name in self._held if not self._often(name)]:
            transition = self._held.pop(name)
            if transition.state == "playing":
                self._info(f"{name} plays again, and no longer comes and goes")
            else:
                self._tell(transition)

    def _tell(self, transition: Transition) -> None:
        name, reason = transition.source, transition.reason
        if transition.state == "waiting":
            what = reason if name in reason else f"{name}: {reason}"
            self._warn(f"{what}; trying again")
        elif transition.state == "failed":
            # If nothing else plays, it is the error that ends the run.
            if any(state not in ("failed", "ended") for state in self._states.values()):
                self._warn(reason if name in reason else f"{name}: {reason}")
        elif transition.state == "ended" and reason:
            self._info(f"{name}: {reason}")
        elif transition.state == "playing" and transition.outage is not None:
            self._info(f"{name} plays again, after {transition.outage:.1f} s without a frame")

    def _flaps(self, name: str) -> bool:
        """Count that a source stopped to play: often, only that is worth a line now and then."""
        now = self._clock()
        self._lost.setdefault(name, deque(maxlen=_OFTEN + 1)).append(now)
        if not self._often(name):
            return False
        if now - self._told.get(name, float("-inf")) > _MINUTE:
            self._told[name] = now
            self._warn(f"{name} comes and goes, more than {_OFTEN} times a minute; it is kept up")
        return True

    def _often(self, name: str) -> bool:
        lost = self._lost[name]
        return len(lost) > _OFTEN and self._clock() - lost[0] <= _MINUTE
