"""Sources -> preprocess -> engine -> sinks.

    GStreamer's threads      capture and decode
    one reader per source    takes a frame and preprocesses it, while the engine works on another
    the caller's thread      infers, one frame at a time, the sources in turn; feeds the sinks

A reader owns three input buffers, allocated once: one being filled, one ready, one in the engine.
From a live source the newest frame wins; from a file none is lost, and the reader waits.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edge.run.frames import Frame
from edge.run.sinks import Prediction, Result, Sink
from edge.run.summary import Histogram, Summary, Tally

__all__ = ["Engine", "FrameSource", "Result", "Summary", "run"]

READ_TIMEOUT = 10.0  # seconds without a frame after which a source has failed
_BUFFERS = 3
# Seconds the main thread sleeps at most before it looks at `stop`: an Event set in a signal
# handler wakes nobody.
_NAP = 0.1
_JOIN = 5.0  # seconds a reader gets to close its source: a stuck driver must not hold the exit

Tensor = npt.NDArray[np.float32]


class Engine(Protocol):
    """What the loop needs of an engine. `preprocess` runs on several threads at once."""

    input_shape: tuple[int, int, int]
    frame_path: str

    @property
    def backend(self) -> str: ...

    def preprocess(self, pixels: npt.NDArray[np.uint8], out: Tensor) -> object:
        """RGB uint8 [H, W, 3] into float32 [3, height, width]."""

    def infer(self, batch: Tensor) -> Tensor:
        """Float32 [N, 3, height, width] -> logits float32 [N, classes]."""

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
    ended: Callable[[Summary], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Summary:
    """Open the sources, label their frames until they end, and close sources and sinks.

    frames: end after so many results. stop: end soon after it is set, from any thread or from a
    signal handler. ended: is told what was measured, however the run ends. clock: seconds, on the
    scale of `Frame.captured`.
    Whatever a source, the engine or a sink raises is raised here as it is, after all is closed.
    """
    stop = stop or threading.Event()
    bell = threading.Condition()
    readers = [_Reader(source, engine, bell, clock) for source in sources]
    total, infer = Tally(), Histogram()
    with ExitStack() as stack:
        stack.callback(lambda: ended(_summary(engine, readers, total, infer)))
        for sink in sinks:
            stack.callback(sink.close)
        stack.callback(_halt, readers, bell)  # runs first: then nothing comes to the sinks any more
        for reader in readers:
            reader.start()
        turns = deque(readers)
        while frames is None or total.frames < frames:
            turn = _next(turns, bell, stop)
            if turn is None:
                break
            reader, work = turn
            began = clock()
            logits = engine.infer(work.batch)
            infer.add((clock() - began) * 1e3)
            prediction = engine.predict(logits[0])
            ready = clock()
            reader.release(work.batch)
            age_ms, latency_ms = (ready - work.frame.captured) * 1e3, (ready - work.taken) * 1e3
            for tally in (total, reader.tally):
                tally.add(age_ms, latency_ms, work.taken, ready)
            result = Result(work.frame, prediction, age_ms, latency_ms)
            try:
                for sink in sinks:
                    sink.write(result)
            except BrokenPipeError:
                break
    return _summary(engine, readers, total, infer)


@dataclass(frozen=True)
class _Work:
    """A frame ready for the engine: `batch` is float32 [1, 3, height, width]."""

    frame: Frame
    batch: Tensor
    taken: float


class _Reader(threading.Thread):
    """Opens a source, preprocesses its frames into `ready`, closes it. All under `bell`."""

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
        self._engine = engine
        self._bell = bell
        self._clock = clock
        shape = (1, *engine.input_shape)
        self._free = deque(np.empty(shape, np.float32) for _ in range(_BUFFERS))

    def run(self) -> None:
        try:
            with self.source:
                while (batch := self._take()) is not None:
                    frame = self.source.read(READ_TIMEOUT)
                    if frame is None:
                        break
                    taken = self._clock()
                    self._engine.preprocess(frame.pixels, batch[0])
                    self.preprocess.add((self._clock() - taken) * 1e3)
                    self._put(_Work(frame, batch, taken))
        except BaseException as error:  # raised again, as it is, in the thread that called run()
            self.error = error
        finally:
            with self._bell:
                self.finished = True
                self._bell.notify_all()

    def _take(self) -> Tensor | None:
        """A buffer to fill, or None on `halt`. Of a live source one is always free."""
        with self._bell:
            while not self._free and not self.halted:
                self._bell.wait()
            return None if self.halted else self._free.popleft()

    def _put(self, work: _Work) -> None:
        with self._bell:
            if self.source.live and self.ready:
                self._free.append(self.ready.popleft().batch)
                self.replaced += 1
            self.ready.append(work)
            self._bell.notify_all()

    def release(self, batch: Tensor) -> None:
        """Give back the buffer of a frame that is done."""
        with self._bell:
            self._free.append(batch)
            self._bell.notify_all()

    def halt(self) -> None:
        """Make the thread end, wherever it waits."""
        self.source.stop()
        with self._bell:
            self.halted = True
            self._bell.notify_all()


def _next(
    turns: deque[_Reader], bell: threading.Condition, stop: threading.Event
) -> tuple[_Reader, _Work] | None:
    """The next ready frame, readers in turn; None when all have ended or `stop` is set."""
    with bell:
        while not stop.is_set():
            for _ in range(len(turns)):
                reader = turns[0]
                turns.rotate(-1)
                if reader.ready:
                    return reader, reader.ready.popleft()
                # Only now: the frames before an error are good ones.
                if reader.error is not None:
                    raise reader.error
            if all(reader.finished for reader in turns):
                return None
            bell.wait(_NAP)
    return None


def _halt(readers: list[_Reader], bell: threading.Condition) -> None:
    for reader in readers:
        reader.halt()
    for reader in readers:
        if reader.is_alive():
            reader.join(_JOIN)


def _summary(engine: Engine, readers: list[_Reader], total: Tally, infer: Histogram) -> Summary:
    preprocess = Histogram()
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
        stages_ms={"preprocess": preprocess.percentiles(), "infer": infer.percentiles()},
        sources=sources,
        **total.numbers(),
    )
