"""`Reader`: the thread that opens one source, reads its frames and reconnects it.

While the engine works on earlier frames, the reader prepares the next one in a slot: the CPU
preprocesses it, or it is made ready for the GPU. A reader has a fixed set of slots: one that it
fills, one that is ready, and the others in the engine. Of a live source only the newest frame is
kept. The reader of a file waits for a free slot, so no frame is lost.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable

from edge.errors import AccessError, SilenceError, SourceError
from edge.run.connection import Connection
from edge.run.driver_watchdog import DriverWatchdog, source_faults
from edge.run.liveness import StallTimeout, backoff
from edge.run.slots import QueuedFrame, Slot, SlotPool
from edge.run.status import SourceStatus, State, Transition
from edge.sources.feeds import Feed, FrameSource
from edge.sources.frame import Frame

__all__ = ["Reader"]

_STABLE_SECONDS = 5.0  # a source that streamed for so long is not flapping: its backoff starts over
_MIN_ALLOWANCE = 0.1  # seconds of preparation that never make a frame stale


class Reader(threading.Thread):
    """Reads one source into `ready` and reports its state in `transitions`, both under `condition`.

    error      why the reader ended, or why a live source that never delivered cannot connect
    finished   the thread will add nothing more, and the source is closed
    delivered  at least one frame has arrived
    retired    the source was removed from the run
    up_next    the next batch takes a frame of this source: prepare frames on arrival. Otherwise
               they are prepared on their turn, since a newer one replaces most of them before
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
        self._pool = SlotPool(slots, condition)
        self._stopping = threading.Event()
        self._watchdog = DriverWatchdog(feed.name, clock)
        self._hangs = False
        self._reported: tuple[State, str] = ("connecting", "")
        self._is_camera = feed.live
        self._next_number = 0  # frame numbers go on over all connections
        self._last_frame_at: float | None = None  # clock seconds
        self._dropped = status.dropped  # by earlier connections, and here
        self._fastest_preparation = float("inf")  # seconds
        # Of the current connection:
        self._source: FrameSource | None = None
        self._fault: SourceError | None = None  # found by the loop, while it prepared a frame
        self._streaming_since: float | None = None  # clock seconds of the first frame
        self._streamed_seconds = 0.0  # from the first frame to the latest

    # The thread of the reader

    def run(self) -> None:
        try:
            self._stay_connected()
        except BaseException as error:  # the scheduler raises it again in the loop's thread
            with self._condition:
                self.error = error
                self._report("failed", str(error))
        finally:
            with self._condition:
                self.finished = True
                self._condition.notify_all()

    def _stay_connected(self) -> None:
        """Connect again and again, until the source has ended for good or the reader is stopped."""
        stall_timeout, failures = StallTimeout(self.feed.stall), 0
        while not self._stopping.is_set():
            problem = self._connect_and_read(stall_timeout)
            state = self._report_end(problem)
            if state == "failed" and problem is not None:
                raise problem
            if state == "ended":
                return
            refused = isinstance(problem, AccessError)
            del problem  # its traceback holds the closed source
            if state == "waiting":
                failures = 0 if self._streamed_seconds >= _STABLE_SECONDS else failures + 1
                self._stopping.wait(backoff(failures, refused=refused))
        self._report_end(None)

    def _connect_and_read(self, stall_timeout: StallTimeout) -> BaseException | None:
        """Open the source and read it until it ends; returns the error, if it failed."""
        self._streaming_since, self._streamed_seconds, self._fault = None, 0.0, None
        problem: BaseException | None = None
        wait = stall_timeout.seconds(None)
        try:
            with self._watchdog.call():
                source = self.feed.open(self._next_number, wait)
        except SourceError as error:
            return error
        with self._condition:
            self._source = source
            if self._stopping.is_set():  # `halt` came before there was a source to stop
                return None
        connection = Connection(self.feed.name, source, stall_timeout, self._watchdog, self._clock)
        try:
            with connection.open(self.feed.stall + wait):
                try:
                    self._read(connection, source)
                except BaseException as error:
                    problem = error
                # The engine may still read frames that lie in the source's memory.
                self._pool.wait_until_all_free()
                problem = problem or self._fault
                self._is_camera = self._is_camera or source.camera
                self._report_end(problem)  # before close: a failing driver may hang there
        except BaseException as error:  # of open or close
            problem = problem or error
        with self._condition:
            self._dropped += source.dropped
            self.status.dropped = self._dropped
            self._source = None
            self._is_camera = self._is_camera or source.camera
        if isinstance(problem, SilenceError):
            stall_timeout.timed_out(source.interval)
        try:
            return problem
        finally:
            del problem  # its traceback holds this stack frame: that would be a reference cycle

    def _read(self, connection: Connection, source: FrameSource) -> None:
        """Queue frames until the end of the stream, or until the reader is stopped."""
        while (slot := self._pool.take()) is not None:
            queued = False
            try:
                found = connection.read()
                if found is None:
                    return
                frame, read_at, expires = found
                if read_at <= expires:
                    self._enqueue(frame, slot, source, read_at, expires)
                    queued = True
                else:  # not prepared: lack of time may be why it is stale
                    with self._condition:
                        self.status.stale += 1
                del found, frame  # or it would be held while the next one is read
            finally:
                if not queued:
                    self._pool.release(slot)

    def _enqueue(
        self, frame: Frame, slot: Slot, source: FrameSource, read_at: float, expires: float
    ) -> None:
        """Make a frame available to the loop; of a live source it replaces the one before."""
        prepare_now = self.up_next or not source.live
        if prepare_now:
            expires += self._prepare(slot, frame)
        with self._condition:
            if self._reported[0] != "playing":  # a file that starts over never stopped to
                last = self._last_frame_at
                self._report("playing", outage=None if last is None else read_at - last)
            if self._streaming_since is None:
                self._streaming_since = read_at
            self.delivered, self.error = True, None
            self._next_number, self._last_frame_at = frame.number + 1, read_at
            self._streamed_seconds = read_at - self._streaming_since
            if self._stopping.is_set():
                self._pool.release(slot)
                return
            if source.live and self.ready:
                self._pool.release(self.ready.popleft().slot)
                self._dropped += 1
            self.status.dropped = self._dropped + source.dropped
            self.ready.append(QueuedFrame(frame, slot, read_at, expires, prepared=prepare_now))
            self._condition.notify_all()

    def _prepare(self, slot: Slot, frame: Frame) -> float:
        """Put a frame into its slot; returns the seconds by which this extends its expiry.

        Preparation itself makes no frame stale: its time counts as an extension, up to four times
        the fastest preparation (the first one also loads code) or `_MIN_ALLOWANCE`.
        """
        started = self._clock()
        with source_faults(self.feed.name):
            slot.put(frame)
        seconds = self._clock() - started
        with self._condition:  # the loop prepares frames of this source, too
            self.status.preprocess.add(seconds * 1e3)
            self._fastest_preparation = min(self._fastest_preparation, seconds)
            return min(seconds, max(_MIN_ALLOWANCE, 4 * self._fastest_preparation))

    # State

    def _report_end(self, problem: BaseException | None) -> State:
        """Report, and return, the state in which the end of a connection leaves the source.

        problem: why it failed, or None if the stream ended or the source was stopped. The state is
        `playing` for a file that starts over.
        """
        can_retry = problem is None or isinstance(problem, SourceError)
        starts_over = self.feed.loop and not self._is_camera and self._streaming_since is not None
        state: State
        with self._condition:
            if self._stopping.is_set():
                state, reason = "ended", "removed" if self.retired else ""
            elif problem is None and starts_over:
                return "playing"
            elif self.feed.reconnect and self._is_camera and can_retry:
                state, reason = "waiting", str(problem or "the stream ended")
                self.error = None if self.delivered else problem
            else:
                state, reason = "failed" if problem else "ended", str(problem or "")
                self.error = problem
            self._report(state, reason)
            self._condition.notify_all()
        return state

    def _report(self, state: State, reason: str = "", outage: float | None = None) -> None:
        """Report a state to the scheduler, unless it is the same for the same reason."""
        if self._reported != (state, reason):
            self._reported = state, reason
            self._transitions.append(Transition(self.feed.name, state, reason, outage))

    @property
    def has_ended(self) -> bool:
        """No more frames will come; the source may still be closing."""
        return self.finished or self._reported[0] in ("ended", "failed")

    def check_hang(self) -> bool:
        """Whether a call into the driver is overdue; the first time, that is reported."""
        with self._condition:
            problem, hung_before = self._watchdog.overdue, self._hangs
            self._hangs = problem is not None
            if problem and not hung_before and not (self.retired or self.has_ended):
                self.error = None if self.delivered else problem
                self._report("waiting", str(problem))
            return self._hangs

    # The loop's side

    def take_newest(self) -> QueuedFrame | None:
        """The next frame for the engine, if one is ready; stale ones are counted and skipped."""
        with self._condition:
            while self.ready:
                queued = self.ready.popleft()
                if queued.expires >= self._clock():
                    return queued
                self.status.stale += 1
                self._pool.release(queued.slot)
        return None

    def prepare(self, queued: QueuedFrame) -> bool:
        """Put a frame into its slot, unless the reader has done so.

        False if that fails: the slot is free again, and the source fails.
        """
        try:
            if not queued.prepared:
                self._prepare(queued.slot, queued.frame)
        except SourceError as error:
            with self._condition:
                self._fault = error
                if self._source is not None:
                    self._source.stop()
                self._pool.release(queued.slot)
            return False
        return True

    def release(self, slot: Slot) -> None:
        """Return the slot of a frame that the engine and the sinks are done with."""
        self._pool.release(slot)

    def slots(self) -> list[Slot]:
        """All slots of a reader that has finished, for use by another source."""
        return self._pool.free()

    def retire(self) -> None:
        """End this source while the run goes on. Frames in the engine are still labelled."""
        with self._condition:
            self.retired = True
            while self.ready:
                self._pool.release(self.ready.popleft().slot)
            self._request_stop()

    def abandon(self) -> None:
        """Ignore what the hanging thread reports and counts if it ever returns.

        Its name is free for another source. It keeps its slots: the driver may still fill them.
        """
        with self._condition:
            self._transitions, self.status = deque(), SourceStatus(self.feed.name)

    def halt(self) -> None:
        """End the thread, whatever it waits for: the run is over and releases no more slots."""
        with self._condition:
            self._pool.abandon()
            self._request_stop()

    def _request_stop(self) -> None:
        self._stopping.set()
        self._pool.close()
        self._watchdog.expect_return()
        if self._source is not None:
            self._source.stop()
        self._condition.notify_all()
