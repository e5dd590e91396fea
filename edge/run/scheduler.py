"""The sources of a run: whose turn it is, who comes and goes, and what is told of them.

All here is called by the loop, on its one thread; `Control` may be used from any.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edge.errors import EdgeError, SourceError
from edge.run.driver_watchdog import faults
from edge.run.interfaces import Sink
from edge.run.reader import Reader
from edge.run.slots import Place, Work
from edge.run.status import Status, Transition
from edge.sources.feeds import Feed

if TYPE_CHECKING:
    from edge.run.interfaces import Engine

__all__ = ["Control", "Crew", "Turn"]

# Seconds the main thread sleeps at most before it looks at `stop`: an Event set in a signal
# handler wakes nobody.
_NAP = 0.1
_JOIN = 1.5  # seconds all readers get to close their sources: a stuck driver must not hold the end

Turn = tuple[Reader, Work]


class Control:
    """Puts sources in and takes them out while a run goes on; from any thread or signal handler."""

    def __init__(self) -> None:
        self.wishes: deque[Feed | str] = deque()

    def add(self, feed: Feed) -> None:
        """Play it, too; one of the same name that is being taken out ends before."""
        self.wishes.append(feed)

    def remove(self, name: str) -> None:
        """End the source of this name; the others play on."""
        self.wishes.append(name)


class Crew:
    """The readers at work, and whose turn it is."""

    def __init__(
        self,
        engine: Engine,
        sinks: Sequence[Sink],
        status: Status,
        stop: threading.Event,
        control: Control,
        wait: bool,
        clock: Callable[[], float],
    ):
        self._engine, self._sinks, self._status = engine, sinks, status
        self._stop, self._control, self._clock = stop, control, clock
        self._came = wait  # a frame, of any source; a service is patient from the beginning
        self._bell = threading.Condition()
        self._news: deque[Transition] = deque()
        self._troubled = ""  # the source whose trouble was told last
        self._turns: deque[Reader] = deque()
        self._spare: list[Place] = []  # of sources that were taken out
        self._waiting: list[Feed] = []  # for one of the same name to end
        self._left: list[Reader] = []  # behind, hanging in their drivers

    def add(self, feed: Feed) -> None:
        """Begin to play a source."""
        needed = 2 + self._engine.depth
        while len(self._spare) < needed:
            self._spare.append(self._engine.place())
        places = [self._spare.pop() for _ in range(needed)]
        source = self._status.add(feed.name)
        self._news.append(Transition(feed.name, "connecting"))
        reader = Reader(feed, places, source, self._news, self._bell, self._clock)
        self._turns.append(reader)
        reader.start()

    def next(self, most: float, *, wait: bool, beat: Callable[[], None]) -> list[Turn]:
        """Frames that are ready, at most so many, readers in turn; none when the run is over.

        Without `wait` there may be none, too, because none is ready.
        """
        while not self._stop.is_set():
            self._attend()
            with self._bell:
                if self._news or self._control.wishes:
                    continue  # that a source plays is told before its first frame
                turns = self._gather(most)
                if turns or not wait:
                    return turns
                self._raise_what_ends_the_run()
                over = not self._waiting and all(reader.over for reader in self._turns)
                if not over:
                    self._bell.wait(_NAP)
            if over:
                self._close()
                self._attend()
                self._raise_what_ends_the_run()  # by a source that failed to close
                return []
            beat()
        return []

    def _gather(self, most: float) -> list[Turn]:
        """One frame of each reader, and again while there are any.

        Batches have 1, 2, 4, 8... frames: of each size a GPU keeps a graph that it replays.
        """
        ready = min(most, sum(len(reader.ready) for reader in self._turns))
        most = 1 << int(ready).bit_length() - 1 if ready else 0
        turns: list[Turn] = []
        idle = 0
        while len(turns) < most and idle < len(self._turns):
            reader = self._turns[0]
            self._turns.rotate(-1)
            work = reader.newest()
            if work is None:
                idle += 1
            else:
                idle = 0
                turns.append((reader, work))
        for position, reader in enumerate(self._turns):
            reader.near = position < self._engine.batch
        return turns

    def _attend(self) -> None:
        """Tell what happened to the sources, and do what is wished for.

        Raises SourceError when none ever came, and each has failed.
        """
        with self._bell:
            in_vain, news = self._in_vain(), list(self._news)
            self._news.clear()
        for transition in news:
            if in_vain and transition.state == "waiting":  # it will not be tried again
                transition = replace(transition, state="failed")
            if transition.state in ("waiting", "failed"):
                self._troubled = transition.source
            self._tell(transition)
        if in_vain:
            error = self._latest_error()
            raise type(error)(error.what, f"{error.mend}; to keep trying add --wait") from error
        while self._control.wishes:
            wish = self._control.wishes.popleft()
            if isinstance(wish, Feed):
                self._waiting.append(wish)
                continue
            self._waiting = [feed for feed in self._waiting if feed.name != wish]
            for reader in self._turns:
                if reader.feed.name == wish:
                    reader.retire()
        self._look_after()
        for feed in self._waiting.copy():
            if all(reader.feed.name != feed.name for reader in self._turns):
                self._add_or_refuse(feed)

    def _add_or_refuse(self, feed: Feed) -> None:
        """Begin to play a source while others play: what it lacks is no reason to end them."""
        try:
            with faults(feed.name):
                self.add(feed)
        except EdgeError as error:
            if any(reader.retired for reader in self._turns):
                return  # one that is about to end leaves its places
            self._tell(Transition(feed.name, "failed", str(error)))
        self._waiting.remove(feed)

    def _tell(self, transition: Transition) -> None:
        self._status.change(transition)
        for sink in self._sinks:
            sink.changed(transition)

    def _leave_behind(self, reader: Reader, why: str) -> None:
        self._turns.remove(reader)
        self._left.append(reader)
        reader.leave_behind()
        self._tell(Transition(reader.feed.name, "ended", why))

    def _look_after(self) -> None:
        """See who hangs, leave behind who hangs and was taken out, and use again what is free."""
        hung = [reader for reader in (*self._turns, *self._left) if reader.hangs()]
        playing = any(
            reader.status.state == "playing" for reader in self._turns if reader not in hung
        )
        self._status.stuck = bool(hung) and not playing
        for reader in [reader for reader in self._turns if reader.retired and reader in hung]:
            self._leave_behind(reader, "taken out, while its driver hangs")
        for readers in (self._turns, self._left):
            for reader in [reader for reader in readers if reader.retired and reader.finished]:
                readers.remove(reader)
                self._spare += reader.places()

    def _in_vain(self) -> bool:
        """Whether no source has come, and each that could has failed; not if the run is to wait."""
        self._came = self._came or any(reader.came for reader in self._turns)
        if self._came or self._waiting or self._control.wishes:
            return False
        failed = all(isinstance(reader.error, SourceError) for reader in self._turns)
        return failed and not all(reader.over for reader in self._turns)

    def _raise_what_ends_the_run(self) -> None:
        """Raise the error of a source, when nothing else can come."""
        for reader in self._turns:
            if reader.error is not None and not isinstance(reader.error, SourceError):
                raise reader.error
        failed = any(reader.error is not None for reader in self._turns)
        if failed and not self._waiting and all(reader.over for reader in self._turns):
            raise self._latest_error()

    def _latest_error(self) -> SourceError:
        """That of the source whose trouble was told last: the others' are known."""
        errors = {
            reader.feed.name: reader.error
            for reader in self._turns
            if isinstance(reader.error, SourceError)
        }
        return errors.get(self._troubled) or next(iter(errors.values()))

    def halt(self) -> None:
        """End all readers; those that hang are left behind."""
        for reader in (*self._turns, *self._left):
            reader.halt()
        self._close()

    def _close(self) -> None:
        """Wait until the sources of all readers are closed; those that hang are left behind."""
        deadline = time.monotonic() + _JOIN
        for reader in self._turns:
            if reader.is_alive():
                reader.join(max(0.0, deadline - time.monotonic()))
        for reader in [reader for reader in self._turns if reader.is_alive()]:
            self._leave_behind(reader, "its driver hangs, and does not close it; it is left behind")
