"""Sources -> preprocess -> engine -> sinks.

    GStreamer's threads      capture and decode
    one reader per source    takes a frame and puts it into a place, ready for the engine; opens the
                             source anew when it fails (edge.run.reader)
    the caller's thread      starts and finishes batches, the sources in turn; feeds the sinks

A batch is what is ready when the engine is: nobody waits for a slow camera, and from each camera
comes its newest frame.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edge.errors import EdgeError, SourceError
from edge.run.feeds import Feed
from edge.run.frames import Frame
from edge.run.reader import Place, Reader, Work
from edge.run.sinks import Prediction, Result, Sink
from edge.run.status import Status, Transition
from edge.run.summary import Summary

__all__ = ["Control", "Engine", "Result", "Summary", "run"]

# Seconds the main thread sleeps at most before it looks at `stop`: an Event set in a signal
# handler wakes nobody.
_NAP = 0.1
_JOIN = 1.5  # seconds all readers get to close their sources: a stuck driver must not hold the exit

Tensor = npt.NDArray[np.float32]
Turn = tuple[Reader, Work]


class Engine(Protocol):
    """What the loop needs of an engine. Places are filled on several threads at once."""

    @property
    def depth(self) -> int:
        """How many batches may be under way at once."""

    @property
    def batch(self) -> int:
        """How many frames it is worth to put into one batch."""

    @property
    def frame_path(self) -> str: ...

    @property
    def backend(self) -> str: ...

    def place(self) -> Any:
        """A new `Place` of this engine's kind."""

    def start(self, places: Sequence[Any]) -> None:
        """Begin to infer a batch; one place for each of its frames."""

    def finish(self) -> Tensor:
        """Wait for the oldest batch that was started: logits float32 [N, classes]."""

    @property
    def stages_ms(self) -> dict[str, float]:
        """Milliseconds within the batch finished last, by stage; may be empty."""

    def seen(self, index: int) -> Tensor:
        """A copy of what the network saw of a frame of the batch finished last: [3, H, W]."""

    def predict(self, logits: Tensor) -> Prediction:
        """Logits of one picture, float32 [classes] -> what they mean."""


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


def run(
    engine: Engine,
    feeds: Sequence[Feed],
    sinks: Sequence[Sink],
    *,
    frames: int | None = None,
    stop: threading.Event | None = None,
    status: Status | None = None,
    control: Control | None = None,
    wait: bool = False,
    look: Callable[[Frame, Prediction, Callable[[], Tensor]], None] | None = None,
    smooth: Callable[[Frame, Any], Any] | None = None,
    beat: Callable[[], None] = lambda: None,
    ended: Callable[[Summary], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Summary:
    """Open the sources, label their frames until they end, and close sources and sinks.

    frames: end after so many results. stop: end soon after it is set, from any thread or from a
    signal handler. status: where it is written how the run goes. wait: keep trying when no source
    comes at all, as a service does; otherwise the first one's error ends the run. look: is shown
    each frame, the engine's prediction, and what gives a copy of the tensor that the network saw.
    smooth: makes of a frame's prediction the one to tell. beat: called whenever the loop has made
    progress, or has nothing to do. ended: is told what was measured, however the run ends. clock:
    seconds, on the scale of `Frame.captured`.

    A source that cannot go on does not stop the others; its error is raised when all have ended.
    Whatever else a source, the engine or a sink raises is raised here, after all is closed.
    """
    status = status or Status(clock=clock)
    status.backend, status.frame_path = engine.backend, engine.frame_path
    crew = _Crew(
        engine, sinks, status, stop or threading.Event(), control or Control(), wait, clock
    )
    with ExitStack() as stack:
        stack.callback(lambda: ended(status.summary()))
        for sink in sinks:
            stack.callback(sink.close)
        stack.callback(crew.halt)  # runs first: then nothing comes to the sinks any more
        for feed in feeds:
            crew.add(feed)
        flying: deque[tuple[list[Turn], float]] = deque()
        # Before anything else ends: the GPU may still read their frames.
        stack.callback(_drain, engine, flying)
        left = float("inf") if frames is None else frames
        while left > 0:
            while len(flying) < engine.depth and left > sum(len(turns) for turns, _ in flying):
                most = min(engine.batch, left - sum(len(turns) for turns, _ in flying))
                turns = crew.next(most, wait=not flying, beat=beat)
                if not turns:
                    break
                for reader, work in turns:
                    reader.prepare(work)
                flying.append((turns, clock()))
                engine.start([work.place for _, work in turns])
            if not flying:
                break
            turns, began = flying.popleft()
            batch = engine.finish()
            status.stage("infer", (clock() - began) * 1e3)
            for stage, took in engine.stages_ms.items():
                status.stage(stage, took)
            beat()
            left -= len(turns)
            try:
                for index, ((reader, work), logits) in enumerate(zip(turns, batch, strict=True)):
                    prediction = engine.predict(logits)
                    if look is not None:
                        look(work.frame, prediction, partial(engine.seen, index))
                    if smooth is not None:
                        prediction = smooth(work.frame, prediction)
                    _deliver(reader, work, prediction, status, sinks, clock)
            except BrokenPipeError:
                break
            del turns, reader, work  # with them go the frames, while the next are waited for
    return status.summary()


def _deliver(
    reader: Reader,
    work: Work,
    prediction: Prediction,
    status: Status,
    sinks: Sequence[Sink],
    clock: Callable[[], float],
) -> None:
    """Count a frame that has its label, free its place, and tell the sinks."""
    ready, now = clock(), time.time()
    reader.release(work.place)
    age_ms, latency_ms = (ready - work.frame.captured) * 1e3, (ready - work.taken) * 1e3
    reader.status.seen = ready
    for tally in (status.total, reader.status.tally):
        tally.add(age_ms, latency_ms, work.taken, ready)
    result = Result(work.frame, prediction, age_ms, latency_ms, now - age_ms / 1e3)
    for sink in sinks:
        sink.write(result)


class _Crew:
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
        self._turns: deque[Reader] = deque()
        self._spare: list[Place] = []  # of sources that were taken out
        self._waiting: list[Feed] = []  # for one of the same name to end

    def add(self, feed: Feed) -> None:
        """Begin to play a source."""
        places = [
            self._spare.pop() if self._spare else self._engine.place()
            for _ in range(2 + self._engine.depth)
        ]
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
                if not self._waiting and all(reader.finished for reader in self._turns):
                    return []
                self._bell.wait(_NAP)
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
        """Tell what happened to the sources, and do what is wished for."""
        while self._news:
            transition = self._news.popleft()
            self._status.change(transition)
            for sink in self._sinks:
                sink.changed(transition)
        while self._control.wishes:
            wish = self._control.wishes.popleft()
            if isinstance(wish, Feed):
                self._waiting.append(wish)
                continue
            self._waiting = [feed for feed in self._waiting if feed.name != wish]
            for reader in self._turns:
                if reader.feed.name == wish:
                    reader.retire()
        for reader in [reader for reader in self._turns if reader.retired and reader.finished]:
            self._turns.remove(reader)
            self._spare += reader.places()
        for feed in self._waiting.copy():
            if all(reader.feed.name != feed.name for reader in self._turns):
                self._waiting.remove(feed)
                self.add(feed)

    def _raise_what_ends_the_run(self) -> None:
        """Raise the error of a source, when nothing else can come."""
        self._came = self._came or any(reader.came for reader in self._turns)
        errors = [reader.error for reader in self._turns if reader.error is not None]
        for error in errors:
            if not isinstance(error, SourceError):
                raise error
        if not errors:
            return
        gone = all(reader.finished for reader in self._turns)
        never = not self._came and all(reader.error is not None for reader in self._turns)
        error = errors[0]
        if gone:
            raise error
        if never and isinstance(error, SourceError):
            raise type(error)(error.what, f"{error.mend}; to keep trying add --wait") from error

    def halt(self) -> None:
        """End all readers; those that hang are left behind."""
        for reader in self._turns:
            reader.halt()
        deadline = time.monotonic() + _JOIN
        for reader in self._turns:
            if reader.is_alive():
                reader.join(max(0.0, deadline - time.monotonic()))


def _drain(engine: Engine, flying: deque[Any]) -> None:
    """Wait for what was started and is not finished; what ended the run is raised already."""
    while flying:
        flying.popleft()
        with suppress(EdgeError):
            engine.finish()
