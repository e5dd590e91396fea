"""The loop of a run: frames from all sources through the engine to all sinks.

    GStreamer's threads      capture and decode
    one reader per source    reads frames, prepares each in a slot, and reconnects the source when
                             it fails (edge.run.reader)
    the caller's thread      schedules batches over the sources in turn, and calls the sinks

A batch is whatever is ready when the engine is free: no source waits for a slower one, and each
live source contributes its newest frame.
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
    """Open the sources, label their frames until they end, then close sources and sinks.

    frames     end after this many results
    stop       when set, from any thread or a signal handler, the run ends soon after
    status     receives the live state and counts of the run
    control    adds and removes sources during the run
    wait       keep trying even if no source has connected yet, as a service does; without it the
               run fails once every source has failed
    observe    called with each frame, the engine's own prediction, and a function that returns a
               copy of the tensor that the network was given
    smooth     (frame, prediction) -> the prediction that the sinks receive
    heartbeat  called whenever the loop has made progress, or has nothing to do
    on_end     called with the summary, however the run ends
    clock      seconds, on the scale of `Frame.captured`

    A source that fails for good does not stop the others; its SourceError is raised when all have
    ended. Any other error of a source, the engine or a sink ends the run; it is raised after
    everything is closed. A BrokenPipeError of a sink ends the run without an error.
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
        stack.callback(scheduler.halt)  # before the sinks close: they receive nothing afterwards
        for feed in feeds:
            scheduler.add(feed)
        in_flight: deque[tuple[list[Scheduled], float]] = deque()  # batches, and their start times
        # Before the readers end: the GPU may still read the frames of started batches.
        stack.callback(_drain, engine, in_flight)
        remaining = float("inf") if frames is None else frames
        while remaining > 0:
            _start_batches(engine, scheduler, in_flight, remaining, heartbeat, clock)
            if not in_flight:
                break
            batch, started = in_flight.popleft()
            batch_logits = engine.finish()
            status.stage("infer", (clock() - started) * 1e3)
            for stage, ms in engine.stages_ms.items():
                status.stage(stage, ms)
            heartbeat()
            remaining -= len(batch)
            try:
                for index, ((reader, queued), logits) in enumerate(
                    zip(batch, batch_logits, strict=True)
                ):
                    prediction = engine.predict(logits)
                    if observe is not None:
                        observe(queued.frame, prediction, partial(engine.network_input, index))
                    if smooth is not None:
                        prediction = smooth(queued.frame, prediction)
                    _deliver(reader, queued, prediction, status, sinks, clock)
            except BrokenPipeError:
                break
            del batch, reader, queued  # or their frames would be held while the loop waits
    return status.summary()


def _start_batches(
    engine: Engine,
    scheduler: Scheduler,
    in_flight: deque[tuple[list[Scheduled], float]],
    remaining: float,
    heartbeat: Callable[[], None],
    clock: Callable[[], float],
) -> None:
    """Start batches until the engine is full or no frame is ready.

    Waits for a frame only while nothing is in flight. remaining: results until the run's limit.
    """
    while len(in_flight) < engine.depth:
        wanted = remaining - sum(len(batch) for batch, _ in in_flight)
        if wanted <= 0:
            return
        batch = scheduler.next(min(engine.batch, wanted), wait=not in_flight, heartbeat=heartbeat)
        if not batch:
            return
        batch = [(reader, queued) for reader, queued in batch if reader.prepare(queued)]
        if batch:
            in_flight.append((batch, clock()))
            engine.start([queued.slot for _, queued in batch])


def _deliver(
    reader: Reader,
    queued: QueuedFrame,
    prediction: Prediction,
    status: Status,
    sinks: Sequence[Sink],
    clock: Callable[[], float],
) -> None:
    """Count a labelled frame, pass its result to the sinks, and free its slot."""
    ready, now = clock(), time.time()
    age_ms, latency_ms = (ready - queued.frame.captured) * 1e3, (ready - queued.read_at) * 1e3
    reader.status.last_labelled = ready
    ((_, label, _),) = prediction.top(1)
    for tally in (status.total, reader.status.tally):
        tally.add(age_ms, latency_ms, queued.read_at, ready, label)
    result = Result(queued.frame, prediction, age_ms, latency_ms, now - age_ms / 1e3)
    for sink in sinks:
        sink.write(result)
    # After the sinks: a reader that wakes up here competes with them for the interpreter, and the
    # engine waits for the sinks.
    reader.release(queued.slot)


def _drain(engine: Engine, in_flight: deque[Any]) -> None:
    """Wait for the batches in flight. Their errors are ignored: the run has ended already."""
    while in_flight:
        in_flight.popleft()
        with suppress(EdgeError):
            engine.finish()
