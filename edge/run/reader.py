"""One source, kept alive: opened, read, and opened anew when it fails, on a thread of its own.

The reader takes a frame and puts it into a place: there the CPU preprocesses it, or it lies ready
for the GPU, while the engine works on another. It owns some places, made once: one being filled,
one ready, the others in the engine. From a live source the newest frame wins; from a file none is
lost, and the reader waits.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from edge.errors import AccessError, SilenceError, SourceError
from edge.run.driver_watchdog import DriverWatchdog, source_faults
from edge.run.liveness import BEHIND, Freshness, StallTimeout, backoff
from edge.run.slots import QueuedFrame, Slot
from edge.run.status import SourceStatus, State, Transition
from edge.sources.feeds import Feed, FrameSource
from edge.sources.frame import Frame

__all__ = ["Reader"]

_STABLE_SECONDS = 5.0  # a source that played for so long is not flapping: its backoff starts again
_READY = 0.1  # seconds to prepare a frame: more is as usual, or a start


class Reader(threading.Thread):
    """Reads one source into `ready` and reports its state in `transitions`, both under `condition`.

    error      what ended it; for a live source that never played also why it does not
    finished   it will add nothing more
    up_next    one of the next batches takes its frame: preprocess it on arrival. Frames of other
               sources stay as they are, since most are replaced by a newer one before their turn
    delivered  at least one frame has arrived
    retired    it was removed from the run
    """

    def __init__(
        self,
        feed: Feed,
        slots: Iterable[Slot],
        status: SourceStatus,
        transitions: deque[Transition],
        condition: threading.Condition,
        clock: Callable[[], float],
    ):
        super().__init__(name=f"reader of {feed.name}", daemon=True)
        self.feed, self.status = feed, status
        self.ready: deque[QueuedFrame] = deque()
        self.error: BaseException | None = None
        self.finished = self.delivered = self.retired = False
        self.up_next = True
        self._transitions, self._condition, self._clock = transitions, condition, clock
        self._free = deque(slots)
        self._slots = len(self._free)
        self._leaving = threading.Event()
        self._abandoned = False  # nobody gives places back any more
        self._watchdog = DriverWatchdog(feed.name, clock)
        self._overdue = False
        self._source: FrameSource | None = None
        self._fault: SourceError | None = None  # of a frame of its own, found by the loop
        self._camera = feed.live
        self._has_played = False  # since it was opened
        self._playing_for = 0.0  # seconds for which it did
        self._reported: tuple[State, str] = ("connecting", "")
        self._playing_since = 0.0
        self._typical_seconds = float("inf")  # seconds that it takes to prepare a frame
        self._number = 0  # of the next frame, over all openings
        self._last_frame_at: float | None = None  # clock seconds of the latest frame
        self._dropped = status.dropped  # of the openings before this one

    def run(self) -> None:
        try:
            self._keep_playing()
        except BaseException as error:  # raised again, as it is, in the thread that called run()
            with self._condition:
                self.error = error
                self._change("failed", str(error))
        finally:
            with self._condition:
                self.finished = True
                self._condition.notify_all()

    def _keep_playing(self) -> None:
        stall_timeout, failures = StallTimeout(self.feed.stall), 0
        while not self._leaving.is_set():
            problem = self._play(stall_timeout)
            after = self._over(problem)
            if after == "failed" and problem is not None:
                raise problem
            if after == "ended":
                return
            refused = isinstance(problem, AccessError)
            del problem  # with what its traceback holds
            if after == "waiting":
                failures = 0 if self._playing_for >= _STABLE_SECONDS else failures + 1
                self._leaving.wait(backoff(failures, refused=refused))
        self._over(None)

    def _play(self, stall_timeout: StallTimeout) -> BaseException | None:
        """Read a source, opened anew, until it ends; returns why it failed, if it did."""
        self._has_played, self._playing_for, self._fault = False, 0.0, None
        problem: BaseException | None = None
        wait = stall_timeout.seconds(None)
        try:
            with self._watchdog.call():
                source = self.feed.open(self._number, wait)
        except SourceError as error:
            return error
        with self._condition:
            self._source = source
            if self._leaving.is_set():  # `halt` came before there was a source to stop
                return None
        try:
            with self._opened(source, self.feed.stall + wait):
                try:
                    self._read(source, stall_timeout)
                except BaseException as error:
                    problem = error
                self._await_slots()
                problem = problem or self._fault
                self._camera = self._camera or source.camera
                self._over(problem)
        except BaseException as error:  # it does not open, or not close
            problem = problem or error
        with self._condition:
            self._dropped += source.dropped
            self.status.dropped = self._dropped
            self._source = None
            self._camera = self._camera or source.camera
        if isinstance(problem, SilenceError):
            stall_timeout.timed_out(source.interval)
        try:
            return problem
        finally:
            del problem  # its traceback holds this frame: no cycle

    @contextmanager
    def _opened(self, source: FrameSource, within: float) -> Iterator[None]:
        """Open it, in so many seconds, and close it."""
        with self._watchdog.call(within):
            source.__enter__()
        try:
            yield
        finally:
            with self._watchdog.call():
                source.__exit__(None, None, None)

    def _read(self, source: FrameSource, stall_timeout: StallTimeout) -> None:
        freshness, in_time = Freshness(source.link, source.spacing), self._clock()
        while (slot := self._take()) is not None:
            filled = False
            try:
                wait = stall_timeout.seconds(source.interval)
                with self._watchdog.call(wait):
                    frame = source.read(wait)
                if frame is None:
                    break
                taken = self._clock()
                expires = float("inf")
                if source.live:
                    expires = freshness.expires(frame.number, frame.pts, frame.captured, taken)
                if taken <= expires:
                    self._put(frame, slot, source, taken, expires)
                    filled = True
                else:  # nothing is spent on it: that may be why it is late
                    with self._condition:
                        self.status.stale += 1
                del frame  # or it would be held while the next is read
            finally:
                if not filled:
                    self.release(slot)
            now = self._clock()
            if freshness.behind < BEHIND:
                in_time = now
            elif now - in_time > stall_timeout.seconds(source.interval):
                raise SourceError(
                    f"frames of {self.feed.name} come {freshness.behind:.1f} s too late",
                    "the way to it or this machine is too slow: have fewer or smaller pictures",
                )

    def _put(
        self, frame: Frame, slot: Slot, source: FrameSource, taken: float, expires: float
    ) -> None:
        now = self.up_next or not source.live
        if now:
            expires += self._fill(slot, frame)
        with self._condition:
            if self._reported[0] != "playing":  # a file that is played again never stopped to
                outage = None if self._last_frame_at is None else taken - self._last_frame_at
                self._change("playing", outage=outage)
            if not self._has_played:
                self._playing_since = taken
            self._has_played = self.delivered = True
            self.error = None
            self._number, self._last_frame_at = frame.number + 1, taken
            self._playing_for = taken - self._playing_since
            if self._leaving.is_set():
                self._give_back(slot)
                return
            if source.live and self.ready:
                self._give_back(self.ready.popleft().slot)
                self._dropped += 1
            self.status.dropped = self._dropped + source.dropped
            self.ready.append(QueuedFrame(frame, slot, taken, expires, prepared=now))
            self._condition.notify_all()

    def _fill(self, slot: Slot, frame: Frame) -> float:
        """Prepare a frame; returns the seconds that this may add to what is current."""
        began = self._clock()
        with source_faults(self.feed.name):
            slot.put(frame)
        took = self._clock() - began
        with self._condition:  # the loop, too, fills places of this source
            self.status.preprocess.add(took * 1e3)
            # What it takes to get ready it takes each time, but for the first: then code is loaded.
            self._typical_seconds = min(self._typical_seconds, took)
            return min(took, max(_READY, 4 * self._typical_seconds))

    def prepare(self, work: QueuedFrame) -> bool:
        """Put the frame of a turn into its place, if none was near enough to do it meanwhile.

        False when that fails: its source has failed then, and the place is free again.
        """
        try:
            if not work.prepared:
                self._fill(work.slot, work.frame)
        except SourceError as error:
            with self._condition:
                self._fault = error
                if self._source is not None:
                    self._source.stop()
                self.release(work.slot)
            return False
        return True

    def _over(self, problem: BaseException | None) -> State:
        """It does not play: tell, and return, what it does now. Each reason is told once.

        Told before it is closed, too: a failing driver may never return from that.
        """
        keeps = problem is None or isinstance(problem, SourceError)
        state: State
        with self._condition:
            if self._leaving.is_set():
                state, reason = "ended", "taken out" if self.retired else ""
            elif problem is None and self._has_played and self.feed.again and not self._camera:
                return "playing"
            elif self.feed.keep and self._camera and keeps:
                state, reason = "waiting", str(problem or "the stream ended")
                self.error = None if self.delivered else problem
            else:
                state, reason = "failed" if problem else "ended", str(problem or "")
                self.error = problem
            self._change(state, reason)
            self._condition.notify_all()
        return state

    def _change(self, state: State, reason: str = "", outage: float | None = None) -> None:
        if self._reported != (state, reason):
            self._reported = state, reason
            self._transitions.append(Transition(self.feed.name, state, reason, outage))

    @property
    def over(self) -> bool:
        """Whether it will put nothing any more; it may still be closing its source."""
        return self.finished or self._reported[0] in ("ended", "failed")

    def hangs(self) -> bool:
        """Whether it waits for a driver that is long overdue; told once."""
        with self._condition:
            problem, before = self._watchdog.overdue, self._overdue
            self._overdue = problem is not None
            if problem and not before and not (self.retired or self.over):
                self.error = None if self.delivered else problem
                self._change("waiting", str(problem))
            return self._overdue

    def _take(self) -> Slot | None:
        """A place to fill, or None on `halt`. Of a live source one is always free."""
        with self._condition:
            while not self._free and not self._leaving.is_set():
                self._condition.wait()
            return None if self._leaving.is_set() else self._free.popleft()

    def _await_slots(self) -> None:
        """The engine may still read its frames: wait, before the source and its memory go."""
        with self._condition:
            while len(self._free) < self._slots and not self._abandoned:
                self._condition.wait()

    def release(self, slot: Slot) -> None:
        """Give back the place of a frame that is done."""
        with self._condition:
            self._give_back(slot)
            self._condition.notify_all()

    def _give_back(self, slot: Slot) -> None:
        slot.clear()
        self._free.append(slot)

    def take_newest(self) -> QueuedFrame | None:
        """The frame for the engine, if one is ready; those that waited too long are left out."""
        with self._condition:
            while self.ready:
                work = self.ready.popleft()
                if work.expires >= self._clock():
                    return work
                self.status.stale += 1
                self.release(work.slot)
        return None

    def slots(self) -> list[Slot]:
        """Its places, all empty, once it has finished: for another source."""
        return list(self._free)

    def retire(self) -> None:
        """Leave while the run goes on: the engine finishes what it has of this source."""
        with self._condition:
            self.retired = True
            while self.ready:
                self._give_back(self.ready.popleft().slot)
            self._leave()

    def abandon(self) -> None:
        """It hangs, and is over: what it says one day is for nobody. Its places stay its own.

        One of the same name may take its turn.
        """
        with self._condition:
            self._transitions, self.status = deque(), SourceStatus(self.feed.name)

    def halt(self) -> None:
        """Make the thread end, wherever it waits: the run is over."""
        with self._condition:
            self._abandoned = True
            self._leave()

    def _leave(self) -> None:
        self._leaving.set()
        self._watchdog.expect_return()
        if self._source is not None:
            self._source.stop()
        self._condition.notify_all()
