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
from edge.run.driver_watchdog import source_faults
from edge.run.interfaces import Sink
from edge.run.reader import Reader
from edge.run.slots import QueuedFrame, Slot
from edge.run.status import Status, Transition
from edge.sources.feeds import Feed

if TYPE_CHECKING:
    from edge.run.interfaces import Engine

__all__ = ["Control", "Scheduled", "Scheduler"]

# Seconds the main thread sleeps at most before it looks at `stop`: an Event set in a signal
# handler wakes nobody.
_NAP = 0.1
_JOIN = 1.5  # seconds all readers get to close their sources: a stuck driver must not hold the end

Scheduled = tuple[Reader, QueuedFrame]


class Control:
    """Puts sources in and takes them out while a run goes on; from any thread or signal handler."""

    def __init__(self) -> None:
        self.requests: deque[Feed | str] = deque()

    def add(self, feed: Feed) -> None:
        """Play it, too; one of the same name that is being taken out ends before."""
        self.requests.append(feed)

    def remove(self, name: str) -> None:
        """End the source of this name; the others play on."""
        self.requests.append(name)


class Scheduler:
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
        self._delivered = wait  # a frame, of any source; a service is patient from the beginning
        self._condition = threading.Condition()
        self._transitions: deque[Transition] = deque()
        self._last_failed = ""  # the source whose failure was reported last
        self._readers: deque[Reader] = deque()
        self._spare_slots: list[Slot] = []  # of sources that were taken out
        self._waiting: list[Feed] = []  # for one of the same name to end
        self._abandoned_readers: list[Reader] = []  # behind, hanging in their drivers

    def add(self, feed: Feed) -> None:
        """Begin to play a source."""
        needed = 2 + self._engine.depth
        while len(self._spare_slots) < needed:
            self._spare_slots.append(self._engine.slot())
        slots = [self._spare_slots.pop() for _ in range(needed)]
        source = self._status.add(feed.name)
        self._transitions.append(Transition(feed.name, "connecting"))
        reader = Reader(feed, slots, source, self._transitions, self._condition, self._clock)
        self._readers.append(reader)
        reader.start()

    def next(self, most: float, *, wait: bool, heartbeat: Callable[[], None]) -> list[Scheduled]:
        """Frames that are ready, at most so many, readers in turn; none when the run is over.

        Without `wait` there may be none, too, because none is ready.
        """
        while not self._stop.is_set():
            self._apply_changes()
            with self._condition:
                if self._transitions or self._control.requests:
                    continue  # that a source plays is told before its first frame
                scheduled = self._collect(most)
                if scheduled or not wait:
                    return scheduled
                self._raise_what_ends_the_run()
                over = not self._waiting and all(reader.over for reader in self._readers)
                if not over:
                    self._condition.wait(_NAP)
            if over:
                self._close()
                self._apply_changes()
                self._raise_what_ends_the_run()  # by a source that failed to close
                return []
            heartbeat()
        return []

    def _collect(self, most: float) -> list[Scheduled]:
        """One frame of each reader, and again while there are any.

        Batches have 1, 2, 4, 8... frames: of each size a GPU keeps a graph that it replays.
        """
        ready = min(most, sum(len(reader.ready) for reader in self._readers))
        most = 1 << int(ready).bit_length() - 1 if ready else 0
        scheduled: list[Scheduled] = []
        idle = 0
        while len(scheduled) < most and idle < len(self._readers):
            reader = self._readers[0]
            self._readers.rotate(-1)
            work = reader.take_newest()
            if work is None:
                idle += 1
            else:
                idle = 0
                scheduled.append((reader, work))
        for position, reader in enumerate(self._readers):
            reader.up_next = position < self._engine.batch
        return scheduled

    def _apply_changes(self) -> None:
        """Tell what happened to the sources, and do what is wished for.

        Raises SourceError when none ever came, and each has failed.
        """
        with self._condition:
            in_vain, transitions = self._all_failed_to_connect(), list(self._transitions)
            self._transitions.clear()
        for transition in transitions:
            if in_vain and transition.state == "waiting":  # it will not be tried again
                transition = replace(transition, state="failed")
            if transition.state in ("waiting", "failed"):
                self._last_failed = transition.source
            self._publish(transition)
        if in_vain:
            error = self._latest_error()
            raise type(error)(error.problem, f"{error.hint}; to keep trying add --wait") from error
        while self._control.requests:
            request = self._control.requests.popleft()
            if isinstance(request, Feed):
                self._waiting.append(request)
                continue
            self._waiting = [feed for feed in self._waiting if feed.name != request]
            for reader in self._readers:
                if reader.feed.name == request:
                    reader.retire()
        self._check_readers()
        for feed in self._waiting.copy():
            if all(reader.feed.name != feed.name for reader in self._readers):
                self._add_or_refuse(feed)

    def _add_or_refuse(self, feed: Feed) -> None:
        """Begin to play a source while others play: what it lacks is no reason to end them."""
        try:
            with source_faults(feed.name):
                self.add(feed)
        except EdgeError as error:
            if any(reader.retired for reader in self._readers):
                return  # one that is about to end leaves its places
            self._publish(Transition(feed.name, "failed", str(error)))
        self._waiting.remove(feed)

    def _publish(self, transition: Transition) -> None:
        self._status.change(transition)
        for sink in self._sinks:
            sink.changed(transition)

    def _abandon(self, reader: Reader, why: str) -> None:
        self._readers.remove(reader)
        self._abandoned_readers.append(reader)
        reader.abandon()
        self._publish(Transition(reader.feed.name, "ended", why))

    def _check_readers(self) -> None:
        """See who hangs, leave behind who hangs and was taken out, and use again what is free."""
        hung = [reader for reader in (*self._readers, *self._abandoned_readers) if reader.hangs()]
        playing = any(
            reader.status.state == "playing" for reader in self._readers if reader not in hung
        )
        self._status.stuck = bool(hung) and not playing
        for reader in [reader for reader in self._readers if reader.retired and reader in hung]:
            self._abandon(reader, "taken out, while its driver hangs")
        for readers in (self._readers, self._abandoned_readers):
            for reader in [reader for reader in readers if reader.retired and reader.finished]:
                readers.remove(reader)
                self._spare_slots += reader.slots()

    def _all_failed_to_connect(self) -> bool:
        """Whether no source has come, and each that could has failed; not if the run is to wait."""
        self._delivered = self._delivered or any(reader.delivered for reader in self._readers)
        if self._delivered or self._waiting or self._control.requests:
            return False
        failed = all(isinstance(reader.error, SourceError) for reader in self._readers)
        return failed and not all(reader.over for reader in self._readers)

    def _raise_what_ends_the_run(self) -> None:
        """Raise the error of a source, when nothing else can come."""
        for reader in self._readers:
            if reader.error is not None and not isinstance(reader.error, SourceError):
                raise reader.error
        failed = any(reader.error is not None for reader in self._readers)
        if failed and not self._waiting and all(reader.over for reader in self._readers):
            raise self._latest_error()

    def _latest_error(self) -> SourceError:
        """That of the source whose failure was reported last; the others' are known."""
        errors = {
            reader.feed.name: reader.error
            for reader in self._readers
            if isinstance(reader.error, SourceError)
        }
        return errors.get(self._last_failed) or next(iter(errors.values()))

    def halt(self) -> None:
        """End all readers; those that hang are left behind."""
        for reader in (*self._readers, *self._abandoned_readers):
            reader.halt()
        self._close()

    def _close(self) -> None:
        """Wait until the sources of all readers are closed; those that hang are left behind."""
        deadline = time.monotonic() + _JOIN
        for reader in self._readers:
            if reader.is_alive():
                reader.join(max(0.0, deadline - time.monotonic()))
        for reader in [reader for reader in self._readers if reader.is_alive()]:
            self._abandon(reader, "its driver hangs, and does not close it; it is left behind")
