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
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.errors import EdgeError
from edge.run.interfaces import Engine, Prediction, Result, Sink
from edge.run.reader import Reader
from edge.run.scheduler import Control, Scheduled, Scheduler
from edge.run.slots import QueuedFrame
from edge.run.status import Status
from edge.run.summary import Summary
from edge.sources.feeds import Feed
from edge.sources.frame import Frame

__all__ = ["Control", "Summary", "run"]

Tensor = npt.NDArray[np.float32]


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
    observe: Callable[[Frame, Prediction, Callable[[], Tensor]], None] | None = None,
    smooth: Callable[[Frame, Any], Any] | None = None,
    heartbeat: Callable[[], None] = lambda: None,
    on_end: Callable[[Summary], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Summary:
    """Open the sources, label their frames until they end, and close sources and sinks.

    frames: end after so many results. stop: end soon after it is set, from any thread or from a
    signal handler. status: where it is written how the run goes. wait: keep trying when no source
    comes at all, as a service does; otherwise the run ends when each has failed. look: is shown
    each frame, the engine's prediction, and what gives a copy of the tensor that the network saw.
    smooth: makes of a frame's prediction the one to tell. beat: called whenever the loop has made
    progress, or has nothing to do. on_end: is called with the summary, however the run ends. clock:
    seconds, on the scale of `Frame.captured`.

    A source that cannot go on does not stop the others; its error is raised when all have ended.
    Whatever else a source, the engine or a sink raises is raised here, after all is closed.
    """
    status = status or Status(clock=clock)
    status.backend, status.frame_path = engine.backend, engine.frame_path
    scheduler = Scheduler(
        engine, sinks, status, stop or threading.Event(), control or Control(), wait, clock
    )
    with ExitStack() as stack:
        stack.callback(lambda: on_end(status.summary()))
        for sink in sinks:
            stack.callback(sink.close)
        stack.callback(scheduler.halt)  # runs first: then nothing comes to the sinks any more
        for feed in feeds:
            scheduler.add(feed)
        in_flight: deque[tuple[list[Scheduled], float]] = deque()
        # Before anything else ends: the GPU may still read their frames.
        stack.callback(_drain, engine, in_flight)
        left = float("inf") if frames is None else frames
        while left > 0:
            while len(in_flight) < engine.depth and left > sum(
                len(scheduled) for scheduled, _ in in_flight
            ):
                most = min(engine.batch, left - sum(len(scheduled) for scheduled, _ in in_flight))
                scheduled = scheduler.next(most, wait=not in_flight, heartbeat=heartbeat)
                if not scheduled:
                    break
                scheduled = [(reader, work) for reader, work in scheduled if reader.prepare(work)]
                if not scheduled:
                    continue
                in_flight.append((scheduled, clock()))
                engine.start([work.slot for _, work in scheduled])
            if not in_flight:
                break
            scheduled, began = in_flight.popleft()
            batch = engine.finish()
            status.stage("infer", (clock() - began) * 1e3)
            for stage, took in engine.stages_ms.items():
                status.stage(stage, took)
            heartbeat()
            left -= len(scheduled)
            try:
                for index, ((reader, work), logits) in enumerate(
                    zip(scheduled, batch, strict=True)
                ):
                    prediction = engine.predict(logits)
                    if observe is not None:
                        observe(work.frame, prediction, partial(engine.network_input, index))
                    if smooth is not None:
                        prediction = smooth(work.frame, prediction)
                    _deliver(reader, work, prediction, status, sinks, clock)
            except BrokenPipeError:
                break
            del scheduled, reader, work  # with them go the frames, while the next are waited for
    return status.summary()


def _deliver(
    reader: Reader,
    work: QueuedFrame,
    prediction: Prediction,
    status: Status,
    sinks: Sequence[Sink],
    clock: Callable[[], float],
) -> None:
    """Count a frame that has its label, tell the sinks, and free its place."""
    ready, now = clock(), time.time()
    age_ms, latency_ms = (ready - work.frame.captured) * 1e3, (ready - work.taken) * 1e3
    reader.status.seen = ready
    for tally in (status.total, reader.status.tally):
        tally.add(age_ms, latency_ms, work.taken, ready)
    result = Result(work.frame, prediction, age_ms, latency_ms, now - age_ms / 1e3)
    for sink in sinks:
        sink.write(result)
    # Last: a reader that waited for it takes the interpreter, and the engine waits for the sinks.
    reader.release(work.slot)


def _drain(engine: Engine, in_flight: deque[Any]) -> None:
    """Wait for what was started and is not finished; what ended the run is raised already."""
    while in_flight:
        in_flight.popleft()
        with suppress(EdgeError):
            engine.finish()
