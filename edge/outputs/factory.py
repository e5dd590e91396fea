"""Construction of the outputs of a run from its configuration."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from edge.engine.choices import Format
from edge.engine.engine import Engine, Tensor
from edge.outputs.audit.audit import Audit, parse_every
from edge.outputs.audit.metrics import AuditMetrics
from edge.outputs.audit.reference import Reference
from edge.outputs.console_log import ConsoleLog
from edge.outputs.json_lines import Lines, as_json
from edge.outputs.preview import Preview
from edge.outputs.record.cadence import frame_time
from edge.outputs.record.recording import record
from edge.outputs.record.rules import check_labels, read_rule
from edge.outputs.record.smoothing import Smooth, smoothing
from edge.outputs.record.snapshots import Snapshots
from edge.outputs.telemetry.metrics import RunMetrics, serve
from edge.outputs.telemetry.mqtt import Mqtt
from edge.outputs.text import NewLabels, TerminalLine
from edge.outputs.web.live import LivePage
from edge.run.config import Config
from edge.run.interfaces import Prediction, Result, Sink
from edge.run.status import Status, Transition
from edge.sources.frame import Frame

__all__ = ["Outputs", "SinkGroup", "open_outputs"]

Report = Callable[[str], None]
# By `--format`, what makes the function that renders results on stdout.
_RENDER: dict[Format, Callable[[], Callable[[Result], str | None]]] = {
    "json": lambda: as_json,
    "text": NewLabels,
}
_REPORT_SECONDS = 1.0  # after which closing is reported


@dataclass
class Outputs:
    """The outputs of a run. The loop closes the sinks; `stack` closes everything else.

    heartbeat  call it regularly: it reports changes that depend on elapsed time only
    sinks      receive results and transitions
    smooth     smooths predictions; None without `--smooth`
    audit      compares frames with the reference; None without `--audit`
    losses     by sink name, a function that counts results the sink could not deliver; it may be
               called from any thread
    """

    stack: ExitStack
    heartbeat: Callable[[], None]
    sinks: list[Sink] = field(default_factory=list)
    smooth: Smooth | None = None
    audit: Audit | None = None
    losses: dict[str, Callable[[], int]] = field(default_factory=dict)

    @property
    def observe(self) -> Callable[[Frame, Prediction, Callable[[], Tensor]], None] | None:
        """The audit's hook: called with each frame and the engine's own, unsmoothed prediction."""
        return None if self.audit is None else self.audit.observe

    @property
    def smoothed(self) -> Callable[[Frame, Any], Any] | None:
        """Function (frame, prediction) -> smoothed prediction; None without smoothing."""
        smooth = self.smooth
        if smooth is None:
            return None
        return lambda frame, prediction: smooth(frame.source, prediction, frame_time(frame))

    def numbers(self) -> dict[str, Any]:
        """The outputs' part of the run's summary, for JSON."""
        numbers: dict[str, Any] = {"lost": {name: lost() for name, lost in self.losses.items()}}
        if self.audit is not None:
            self.audit.close()  # first, so that the frame being audited is counted
            numbers["audit"] = self.audit.numbers()
        return numbers


class SinkGroup(Sink):
    """Sinks that take time to close, such as a recording; they are closed in parallel.

    Closed one after the other, they could exceed systemd's TimeoutStopSec.
    """

    def __init__(self, sinks: Mapping[str, Sink], info: Report = lambda text: None):
        """sinks: by their names for people. info: called when closing takes long."""
        self.sinks, self._info = sinks, info

    def write(self, result: Result) -> None:
        for sink in self.sinks.values():
            sink.write(result)

    def changed(self, transition: Transition) -> None:
        for sink in self.sinks.values():
            sink.changed(transition)

    def close(self) -> None:
        """Close all sinks in parallel, then raise the first error that one of them raised."""
        with ThreadPoolExecutor(max(1, len(self.sinks))) as pool:
            closings = {pool.submit(sink.close): name for name, sink in self.sinks.items()}
            pending = wait(closings, _REPORT_SECONDS).not_done
            if slow := [name for closing, name in closings.items() if closing in pending]:
                self._info(f"stopping: completing {' and '.join(slow)}")
        for closing in closings:
            closing.result()


def open_outputs(
    config: Config,
    engine: Engine,
    status: Status,
    stack: ExitStack,
    stop: threading.Event,
    info: Report,
    warn: Report,
    show: Report | None = None,
) -> Outputs:
    """Open the outputs that `config` names. Raises an EdgeError that names the failing output.

    stack: closes everything that is not a sink. stop: when set, ends every wait. info, warn:
    called with messages for the user, from any thread. show: replaces the last line of the
    terminal; None without a terminal.
    """
    console_log = ConsoleLog(info, warn)
    outputs = Outputs(stack, console_log.heartbeat)
    slow: dict[str, Sink] = {}
    with ExitStack() as undo:  # if an output cannot be opened, close those opened before it

        def add(sink: Sink) -> None:
            outputs.sinks.append(sink)
            undo.callback(sink.close)

        def add_slow(name: str, sink: Sink) -> None:
            slow[name] = sink
            undo.callback(sink.close)

        add(console_log)
        if config.format == "text" and show is not None and sys.stdout.isatty():
            add(TerminalLine(show))
        else:
            lines = Lines(sys.stdout, stop, warn, _RENDER[config.format]())
            outputs.losses["stdout"] = lambda: lines.lost
            add(lines)
        if config.preview:
            add(Preview(config.preview))
        if config.smooth:
            outputs.smooth = smoothing(config.smooth)
            add(outputs.smooth)
        page: LivePage | None = None
        if config.web:
            name = (
                f"{config.engine.name}, {engine.passport.precision.upper()}"
                if config.engine
                else ""
            )
            page = LivePage(config.web, status, os.environ.get("EDGE_WEB_TOKEN", ""), name)
            info(f"live page: {page.url}")
            add_slow("the live page", page)
        _add_image_sinks(config, engine, outputs, page, add_slow, stop, info, warn)
        if config.mqtt:
            mqtt = Mqtt(config.mqtt, info, warn)
            outputs.losses["mqtt"] = lambda: mqtt.dropped
            add_slow("the MQTT messages", mqtt)
        _add_monitors(config, engine, status, outputs, info, warn)
        undo.pop_all()
    outputs.sinks.append(SinkGroup(slow, info))
    return outputs


def _add_image_sinks(
    config: Config,
    engine: Engine,
    outputs: Outputs,
    page: LivePage | None,
    add: Callable[[str, Sink], None],
    stop: threading.Event,
    info: Report,
    warn: Report,
) -> None:
    """Add snapshots on rules, which the live page lists, and the recording."""
    if config.snapshots:
        rules = [read_rule(text) for text in config.on]
        check_labels(rules, engine.passport.labels)
        snapshots = Snapshots(
            rules, config.snapshots, warn, keep=config.keep, caption=config.caption
        )
        if page is not None:
            snapshots.fired = page.fired
        outputs.losses["snapshots"] = lambda: snapshots.lost
        add("the snapshots", snapshots)
    if config.record:
        recording = record(config.record, len(config.cameras) > 1, stop, info, warn)
        outputs.losses["recording"] = lambda: recording.lost
        add("the recording", recording)


def _add_monitors(
    config: Config, engine: Engine, status: Status, outputs: Outputs, info: Report, warn: Report
) -> None:
    """Add the audit, and the metrics, which also cover the audit and the other outputs."""
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
            plan_accuracy=engine.plan_accuracy,
        )
        collectors = [AuditMetrics(outputs.audit)] if outputs.audit is not None else []
        info(f"metrics: {outputs.stack.enter_context(serve(config.metrics, metrics, *collectors))}")
