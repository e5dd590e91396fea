"""`Scheduler`: decides whose frame is next, adds and removes sources, and reports their states.

The loop calls it on its one thread. `Control` may be used from any thread.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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

__all__ = ["Add", "Control", "Remove", "Scheduled", "Scheduler"]

# Seconds after which a waiting loop looks at `stop` again: setting an Event in a signal handler
# wakes nobody.
_POLL_SECONDS = 0.1
# Seconds that all readers together get to close their sources: a stuck driver must not delay
# the exit.
_CLOSE_SECONDS = 1.5

Scheduled = tuple[Reader, QueuedFrame]


@dataclass(frozen=True)
class Add:
    feed: Feed


@dataclass(frozen=True)
class Remove:
    name: str


class Control:
    """Adds and removes sources during a run, from any thread or signal handler."""

    def __init__(self) -> None:
        self.requests: deque[Add | Remove] = deque()

    def add(self, feed: Feed) -> None:
        """Add a source. If one of this name is being removed, the new one starts after it."""
        self.requests.append(Add(feed))

    def remove(self, name: str) -> None:
        """Remove the source of this name; the others are unaffected."""
        self.requests.append(Remove(name))


class Scheduler:
    """The readers of a run, and the order in which the engine takes their frames.

    wait: keep trying even if no source has connected yet. clock: seconds.
    """

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
        # Whether failing sources are retried: some source has delivered a frame, or `wait`.
        self._may_wait = wait
        self._condition = threading.Condition()
        self._transitions: deque[Transition] = deque()
        self._last_failed = ""  # the source whose failure was reported last
        self._readers: deque[Reader] = deque()  # the first one is next
        self._abandoned_readers: list[Reader] = []
        self._spare_slots: list[Slot] = []  # of removed sources
        self._pending: list[Feed] = []  # to be added once the source of the same name has ended

    def add(self, feed: Feed) -> None:
        """Start the reader of a source. Raises an EdgeError if the engine has no more slots."""
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
        """Up to `most` frames that are ready, one per reader in turn; none when the run is over.

        Without `wait` the list is also empty when no frame is ready.
        """
        while not self._stop.is_set():
            self._apply_changes()
            with self._condition:
                if self._transitions or self._control.requests:
                    continue  # `playing` is reported before the first frame
                scheduled = self._collect(most)
                if scheduled or not wait:
                    return scheduled
                self._raise_final_error()
                over = not self._pending and all(reader.has_ended for reader in self._readers)
                if not over:
                    self._condition.wait(_POLL_SECONDS)
            if over:
                self._close()
                self._apply_changes()
                self._raise_final_error()  # a source may have failed to close
                return []
            heartbeat()
        return []

    def _collect(self, most: float) -> list[Scheduled]:
        """Take frames from the readers in turn, as long as there are any.

        The number of frames is a power of two: the GPU replays one CUDA graph per batch size.
        """
        ready = min(most, sum(len(reader.ready) for reader in self._readers))
        most = 1 << int(ready).bit_length() - 1 if ready else 0
        scheduled: list[Scheduled] = []
        empty_in_a_row = 0
        while len(scheduled) < most and empty_in_a_row < len(self._readers):
            reader = self._readers[0]
            self._readers.rotate(-1)
            queued = reader.take_newest()
            if queued is None:
                empty_in_a_row += 1
            else:
                empty_in_a_row = 0
                scheduled.append((reader, queued))
        for position, reader in enumerate(self._readers):
            reader.up_next = position < self._engine.batch
        return scheduled

    def _apply_changes(self) -> None:
        """Publish the transitions of all readers, and carry out the requests of `Control`.

        Raises SourceError if no source ever connected and every one of them has failed.
        """
        with self._condition:
            all_failed, transitions = self._all_failed_to_connect(), list(self._transitions)
            self._transitions.clear()
        for transition in transitions:
            if all_failed and transition.state == "waiting":  # it will not be retried
                transition = replace(transition, state="failed")
            if transition.state in ("waiting", "failed"):
                self._last_failed = transition.source
            self._publish(transition)
        if all_failed:
            error = self._latest_error()
            raise type(error)(error.problem, f"{error.hint}; to keep trying add --wait") from error
        while self._control.requests:
            request = self._control.requests.popleft()
            if isinstance(request, Add):
                self._pending.append(request.feed)
                continue
            self._pending = [feed for feed in self._pending if feed.name != request.name]
            for reader in self._readers:
                if reader.feed.name == request.name:
                    reader.retire()
        self._check_readers()
        for feed in self._pending.copy():
            if all(reader.feed.name != feed.name for reader in self._readers):
                self._add_or_refuse(feed)

    def _add_or_refuse(self, feed: Feed) -> None:
        """Add a source during the run. If that fails, only this source fails."""
        try:
            with source_faults(feed.name):
                self.add(feed)
        except EdgeError as error:
            if any(reader.retired for reader in self._readers):
                return  # try again when the removed source has left its slots
            self._publish(Transition(feed.name, "failed", str(error)))
        self._pending.remove(feed)

    def _publish(self, transition: Transition) -> None:
        self._status.change(transition)
        for sink in self._sinks:
            sink.changed(transition)

    def _abandon(self, reader: Reader, reason: str) -> None:
        self._readers.remove(reader)
        self._abandoned_readers.append(reader)
        reader.abandon()
        self._publish(Transition(reader.feed.name, "ended", reason))

    def _check_readers(self) -> None:
        """Find hanging drivers, abandon removed readers that hang, reuse slots of finished ones."""
        readers = (*self._readers, *self._abandoned_readers)
        hanging = [reader for reader in readers if reader.check_hang()]
        playing = any(
            reader.status.state == "playing" for reader in self._readers if reader not in hanging
        )
        self._status.stuck = bool(hanging) and not playing
        for reader in [reader for reader in self._readers if reader.retired and reader in hanging]:
            self._abandon(reader, "removed while its driver hangs")
        for group in (self._readers, self._abandoned_readers):
            for reader in [reader for reader in group if reader.retired and reader.finished]:
                group.remove(reader)
                self._spare_slots += reader.slots()

    def _all_failed_to_connect(self) -> bool:
        """Whether no source has ever delivered and each has failed; never if the run may wait."""
        self._may_wait = self._may_wait or any(reader.delivered for reader in self._readers)
        if self._may_wait or self._pending or self._control.requests:
            return False
        failed = all(isinstance(reader.error, SourceError) for reader in self._readers)
        return failed and not all(reader.has_ended for reader in self._readers)

    def _raise_final_error(self) -> None:
        """Raise an error that is not a source's own; or a source's, once all sources have ended."""
        for reader in self._readers:
            if reader.error is not None and not isinstance(reader.error, SourceError):
                raise reader.error
        failed = any(reader.error is not None for reader in self._readers)
        if failed and not self._pending and all(reader.has_ended for reader in self._readers):
            raise self._latest_error()

    def _latest_error(self) -> SourceError:
        """The error of the source that failed last; those of the others were reported before."""
        errors = {
            reader.feed.name: reader.error
            for reader in self._readers
            if isinstance(reader.error, SourceError)
        }
        return errors.get(self._last_failed) or next(iter(errors.values()))

    def halt(self) -> None:
        """End all readers and wait for them; those that hang are abandoned."""
        for reader in (*self._readers, *self._abandoned_readers):
            reader.halt()
        self._close()

    def _close(self) -> None:
        """Wait until all readers have closed their sources; those that hang are abandoned."""
        deadline = time.monotonic() + _CLOSE_SECONDS
        for reader in self._readers:
            if reader.is_alive():
                reader.join(max(0.0, deadline - time.monotonic()))
        for reader in [reader for reader in self._readers if reader.is_alive()]:
            self._abandon(reader, "its driver hangs and does not close it; it was abandoned")
