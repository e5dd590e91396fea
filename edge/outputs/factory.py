"""What a configuration asks for besides labels on stdout: sinks, and what looks at the frames."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from edge.engine.engine import Engine, Tensor
from edge.outputs.audit.audit import Audit, parse_every
from edge.outputs.audit.metrics import ParityMetrics
from edge.outputs.audit.reference import Reference
from edge.outputs.console_log import ConsoleLog
from edge.outputs.json_lines import JsonLines
from edge.outputs.preview import Preview
from edge.outputs.record.cadence import frame_time
from edge.outputs.record.recording import record
from edge.outputs.record.rules import check_labels, read_rule
from edge.outputs.record.smoothing import Smooth, smoothing
from edge.outputs.record.snapshots import Snapshots
from edge.outputs.telemetry.metrics import RunMetrics, serve
from edge.outputs.telemetry.mqtt import Mqtt
from edge.outputs.web.live import Web
from edge.run.config import Config
from edge.run.interfaces import Prediction, Result, Sink
from edge.run.status import Status, Transition
from edge.sources.frame import Frame

__all__ = ["Outputs", "SinkGroup", "open_outputs"]

Say = Callable[[str], None]


@dataclass
class Outputs:
    """What results go to. The loop closes the sinks; the rest is closed with `stack`.

    beat    called all the time: says what only the passing of time tells
    losses  what each sink could not deliver, by name; from any thread
    """

    stack: ExitStack
    heartbeat: Callable[[], None]
    sinks: list[Sink] = field(default_factory=list)
    smooth: Smooth | None = None
    audit: Audit | None = None
    losses: dict[str, Callable[[], int]] = field(default_factory=dict)

    @property
    def observe(self) -> Callable[[Frame, Prediction, Callable[[], Tensor]], None] | None:
        """What is shown each frame and what the engine itself says of it."""
        return None if self.audit is None else self.audit.observe

    @property
    def smoothed(self) -> Callable[[Frame, Any], Any] | None:
        """What makes of a frame's prediction the one to tell."""
        smooth = self.smooth
        if smooth is None:
            return None
        return lambda frame, prediction: smooth(frame.source, prediction, frame_time(frame))

    def numbers(self) -> dict[str, Any]:
        """What they add to the run's summary, for JSON."""
        numbers: dict[str, Any] = {"lost": {name: lost() for name, lost in self.losses.items()}}
        if self.audit is not None:
            self.audit.close()  # the frame that it has still counts
            numbers["audit"] = self.audit.numbers()
        return numbers


class SinkGroup(Sink):
    """Sinks whose end takes time, such as a film's, closed all at once.

    One after the other they could take longer than systemd waits before it kills the run.
    """

    def __init__(self, sinks: Sequence[Sink]):
        self.sinks = sinks

    def write(self, result: Result) -> None:
        for sink in self.sinks:
            sink.write(result)

    def changed(self, transition: Transition) -> None:
        for sink in self.sinks:
            sink.changed(transition)

    def close(self) -> None:
        """Close all; what one raises is raised when all are closed."""
        with ThreadPoolExecutor(max(1, len(self.sinks))) as pool:
            ends = [pool.submit(sink.close) for sink in self.sinks]
        for end in ends:
            end.result()


def open_outputs(
    config: Config,
    engine: Engine,
    status: Status,
    stack: ExitStack,
    stop: threading.Event,
    info: Say,
    warn: Say,
) -> Outputs:
    """Open what `config` asks for. Raises an EdgeError that names what cannot be.

    stack: closes what no sink does. stop: ends every wait, when it is set. say, warn: are told, on
    any thread, what people should know.
    """
    console_log = ConsoleLog(info, warn)
    outputs = Outputs(stack, console_log.heartbeat)
    slow: list[Sink] = []
    with ExitStack() as undo:  # when a later one cannot be opened, those before it are closed

        def add(sink: Sink) -> None:
            outputs.sinks.append(sink)
            undo.callback(sink.close)

        def add_slow(sink: Sink) -> None:
            slow.append(sink)
            undo.callback(sink.close)

        add(console_log)
        lines = JsonLines(sys.stdout, stop, warn)
        outputs.losses["stdout"] = lambda: lines.lost
        add(lines)
        if config.preview:
            add(Preview(config.preview))
        if config.smooth:
            outputs.smooth = smoothing(config.smooth)
            add(outputs.smooth)
        _add_pictures(config, engine, outputs, add_slow, stop, info, warn)
        if config.mqtt:
            mqtt = Mqtt(config.mqtt, info, warn)
            outputs.losses["mqtt"] = lambda: mqtt.dropped
            add_slow(mqtt)
        if config.web:
            web = Web(config.web, status, os.environ.get("EDGE_WEB_TOKEN", ""))
            info(f"live page: {web.url}")
            add_slow(web)
        _add_watchers(config, engine, status, outputs, info, warn)
        undo.pop_all()
    outputs.sinks.append(SinkGroup(slow))
    return outputs


def _add_pictures(
    config: Config,
    engine: Engine,
    outputs: Outputs,
    add: Callable[[Sink], None],
    stop: threading.Event,
    info: Say,
    warn: Say,
) -> None:
    """Snapshots on rules, and recordings."""
    if config.snapshots:
        rules = [read_rule(text) for text in config.on]
        check_labels(rules, engine.passport.labels)
        snapshots = Snapshots(rules, config.snapshots, warn, keep=config.keep)
        outputs.losses["snapshots"] = lambda: snapshots.lost
        add(snapshots)
    if config.record:
        recording = record(config.record, len(config.cameras) > 1, stop, info, warn)
        outputs.losses["recording"] = lambda: recording.lost
        add(recording)


def _add_watchers(
    config: Config, engine: Engine, status: Status, outputs: Outputs, info: Say, warn: Say
) -> None:
    """The audit, and the metrics, which tell of everything else."""
    if config.audit and config.reference:
        reference = Reference.find(engine.passport, config.reference)
        every = parse_every(config.audit)
        audit = Audit(reference, engine.passport.outputs, every, warn)
        outputs.audit = outputs.stack.enter_context(audit)
    if config.metrics:
        device = engine.device
        metrics = RunMetrics(
            status,
            mqtt_dropped=outputs.losses.get("mqtt"),
            gpu_memory=device.memory if device is not None else None,
        )
        more = [ParityMetrics(outputs.audit)] if outputs.audit is not None else []
        info(f"metrics: {outputs.stack.enter_context(serve(config.metrics, metrics, *more))}")
