"""Sources -> preprocess -> engine -> sinks.

    GStreamer's threads      capture and decode
    one reader per source    takes a frame and puts it into a place: there the CPU preprocesses it,
                             or it lies ready for the GPU, while the engine works on another
    the caller's thread      starts and finishes inferences, the sources in turn; feeds the sinks

A reader owns some places, made once: one being filled, one ready, the others in the engine.
From a live source the newest frame wins; from a file none is lost, and the reader waits.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edge.errors import EdgeError
from edge.run.frames import Frame
from edge.run.sinks import Prediction, Result, Sink
from edge.run.summary import Histogram, Summary, Tally

__all__ = ["Engine", "FrameSource", "Result", "Summary", "run"]

READ_TIMEOUT = 10.0  # seconds without a frame after which a source has failed
# Seconds the main thread sleeps at most before it looks at `stop`: an Event set in a signal
# handler wakes nobody.
_NAP = 0.1
_JOIN = 5.0  # seconds a reader gets to close its source: a stuck driver must not hold the exit

Tensor = npt.NDArray[np.float32]


class Place(Protocol):
    """Room for one frame, between the reader that fills it and the engine."""

    def put(self, frame: Frame) -> None:
        """Preprocess the frame, or make it ready for the GPU and keep it until `clear`."""

    def clear(self) -> None:
        """Let go of the frame: its buffer goes back to the camera's few."""


class Engine(Protocol):
    """What the loop needs of an engine. Places are filled on several threads at once."""

    @property
    def depth(self) -> int:
        """How many batches may be under way at once."""

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

    def predict(self, logits: Tensor) -> Prediction:
        """Logits of one picture, float32 [classes] -> what they mean."""


class FrameSource(Protocol):
    """What the loop needs of a source; `edge.run.camera.Source` is one."""

    name: str
    live: bool

    @property
    def dropped(self) -> int: ...

    def __enter__(self) -> object: ...

    def __exit__(self, *exc: object) -> None: ...

    def read(self, timeout: float) -> Frame | None: ...

    def stop(self) -> None: ...


def run(
    engine: Engine,
    sources: Sequence[FrameSource],
    sinks: Sequence[Sink],
    *,
    frames: int | None = None,
    stop: threading.Event | None = None,
    first: Callable[[Frame], None] = lambda _: None,
    ended: Callable[[Summary], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Summary:
    """Open the sources, label their frames until they end, and close sources and sinks.

    frames: end after so many results. stop: end soon after it is set, from any thread or from a
    signal handler. first: is told the first frame of each source. ended: is told what was
    measured, however the run ends. clock: seconds, on the scale of `Frame.captured`.
    Whatever a source, the engine or a sink raises is raised here as it is, after all is closed.
    """
    stop = stop or threading.Event()
    bell = threading.Condition()
    readers = [_Reader(source, engine, bell, clock) for source in sources]
    total, stages = Tally(), defaultdict[str, Histogram](Histogram)
    with ExitStack() as stack:
        stack.callback(lambda: ended(_summary(engine, readers, total, stages)))
        for sink in sinks:
            stack.callback(sink.close)
        stack.callback(_halt, readers, bell)  # runs first: then nothing comes to the sinks any more
        for reader in readers:
            reader.start()
        turns = deque(readers)
        flying: deque[tuple[_Reader, _Work, float]] = deque()
        # Before anything else ends: the GPU may still read their frames.
        stack.callback(_drain, engine, flying)
        while frames is None or total.frames < frames:
            while len(flying) < engine.depth and total.frames + len(flying) != frames:
                turn = _next(turns, bell, stop, wait=not flying)
                if turn is None:
                    break
                flying.append((*turn, clock()))
                engine.start([turn[1].place])
            if not flying:
                break
            reader, work, began = flying.popleft()
            logits = engine.finish()
            if not reader.tally.frames:
                first(work.frame)
            stages["infer"].add((clock() - began) * 1e3)
            for stage, took in engine.stages_ms.items():
                stages[stage].add(took)
            prediction = engine.predict(logits[0])
            ready = clock()
            reader.release(work.place)
            age_ms, latency_ms = (ready - work.frame.captured) * 1e3, (ready - work.taken) * 1e3
            for tally in (total, reader.tally):
                tally.add(age_ms, latency_ms, work.taken, ready)
            result = Result(work.frame, prediction, age_ms, latency_ms)
            try:
                for sink in sinks:
                    sink.write(result)
            except BrokenPipeError:
                break
            del work, result  # with them goes the frame, while the next is waited for
    return _summary(engine, readers, total, stages)


@dataclass(frozen=True)
class _Work:
    """A frame in its place, ready for the engine."""

    frame: Frame
    place: Place
    taken: float


class _Reader(threading.Thread):
    """Opens a source, puts its frames into `ready`, closes it. All under `bell`."""

    def __init__(
        self,
        source: FrameSource,
        engine: Engine,
        bell: threading.Condition,
        clock: Callable[[], float],
    ):
        super().__init__(name=f"reader of {source.name}", daemon=True)
        self.source = source
        self.ready: deque[_Work] = deque()
        self.error: BaseException | None = None
        self.finished = False
        self.halted = False
        self.replaced = 0
        self.tally = Tally()
        self.preprocess = Histogram()
        self._bell = bell
        self._clock = clock
        self._free: deque[Place] = deque(engine.place() for _ in range(2 + engine.depth))

    def run(self) -> None:
        try:
            with self.source:
                while (place := self._take()) is not None:
                    frame = self.source.read(READ_TIMEOUT)
                    if frame is None:
                        break
                    taken = self._clock()
                    place.put(frame)
                    self.preprocess.add((self._clock() - taken) * 1e3)
                    self._put(_Work(frame, place, taken))
                    del frame  # or it would be held while the next is read
        except BaseException as error:  # raised again, as it is, in the thread that called run()
            self.error = error
        finally:
            with self._bell:
                self.finished = True
                self._bell.notify_all()

    def _take(self) -> Place | None:
        """A place to fill, or None on `halt`. Of a live source one is always free."""
        with self._bell:
            while not self._free and not self.halted:
                self._bell.wait()
            return None if self.halted else self._free.popleft()

    def _put(self, work: _Work) -> None:
        with self._bell:
            if self.source.live and self.ready:
                self._give_back(self.ready.popleft().place)
                self.replaced += 1
            self.ready.append(work)
            self._bell.notify_all()

    def release(self, place: Place) -> None:
        """Give back the place of a frame that is done."""
        with self._bell:
            self._give_back(place)
            self._bell.notify_all()

    def _give_back(self, place: Place) -> None:
        place.clear()
        self._free.append(place)

    def halt(self) -> None:
        """Make the thread end, wherever it waits."""
        self.source.stop()
        with self._bell:
            self.halted = True
            self._bell.notify_all()


def _next(
    turns: deque[_Reader], bell: threading.Condition, stop: threading.Event, *, wait: bool
) -> tuple[_Reader, _Work] | None:
    """The next ready frame, readers in turn; None when all have ended or `stop` is set.

    Without `wait` it is None, too, when no frame is ready.
    """
    with bell:
        while not stop.is_set():
            for _ in range(len(turns)):
                reader = turns[0]
                turns.rotate(-1)
                if reader.ready:
                    return reader, reader.ready.popleft()
                # Only now: the frames before an error are good ones, those in the engine too.
                if reader.error is not None and wait:
                    raise reader.error
            if not wait or all(reader.finished for reader in turns):
                return None
            bell.wait(_NAP)
    return None


def _drain(engine: Engine, flying: deque[Any]) -> None:
    """Wait for what was started and is not finished; what ended the run is raised already."""
    while flying:
        flying.popleft()
        with suppress(EdgeError):
            engine.finish()


def _halt(readers: list[_Reader], bell: threading.Condition) -> None:
    for reader in readers:
        reader.halt()
    for reader in readers:
        if reader.is_alive():
            reader.join(_JOIN)


def _summary(
    engine: Engine, readers: list[_Reader], total: Tally, stages: dict[str, Histogram]
) -> Summary:
    preprocess, measured = Histogram(), {"infer": Histogram(), **stages}
    sources: dict[str, dict[str, Any]] = {}
    for reader in readers:
        preprocess.merge(reader.preprocess)
        name, same = reader.source.name, 1
        while name in sources:  # the same camera twice
            same += 1
            name = f"{reader.source.name}#{same}"
        dropped = reader.source.dropped + reader.replaced
        sources[name] = {**reader.tally.numbers(), "dropped": dropped}
    return Summary(
        backend=engine.backend,
        frame_path=engine.frame_path,
        dropped=sum(numbers["dropped"] for numbers in sources.values()),
        reconnects=0,
        stages_ms={
            name: histogram.percentiles()
            for name, histogram in {"preprocess": preprocess, **measured}.items()
        },
        sources=sources,
        **total.numbers(),
    )
