"""Construction of a run's outputs, and how they close together in time."""

from __future__ import annotations

import re
import threading
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edge.engine.engine import Engine
from edge.outputs import console_log, factory
from edge.outputs.audit import audit
from edge.outputs.factory import Outputs, SinkGroup, open_outputs
from edge.outputs.record import recording, snapshots, video_writer
from edge.outputs.telemetry import mqtt
from edge.outputs.web import server, stills
from edge.run import scheduler
from edge.run.config import Config
from edge.run.interfaces import Sink
from edge.run.status import Status, Transition
from edge.sources.camera import Camera

UNIT = Path(__file__).parents[2] / "scripts/service/vit-edge.service"
ENGINE = cast(
    Engine,
    SimpleNamespace(passport=SimpleNamespace(labels=["dog"]), device=None, plan_accuracy=None),
)


def opened(stack: ExitStack, **options: Any) -> Outputs:
    config = Config(cameras=(Camera("test://ball", name="ball"),), **options)
    return open_outputs(config, ENGINE, Status(), stack, threading.Event(), print, print)


def test_the_heartbeat_reports_a_flapping_source_that_stays_disconnected(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """No further transition comes from it, so only elapsed time can trigger the line."""
    monkeypatch.setattr(console_log, "_MAX_LOSSES", 0)
    with ExitStack() as stack:
        outputs = opened(stack)
        outputs.sinks[0].changed(Transition("ball", "playing"))
        outputs.sinks[0].changed(Transition("ball", "waiting", "it is off"))
        monkeypatch.setattr(console_log, "_PERIOD", 0.0)
        outputs.heartbeat()
    assert capfd.readouterr().out.splitlines()[-1] == "ball: it is off; trying again"


class Rendezvous(Sink):
    """Its `close` returns when all others have been called, too."""

    def __init__(self, barrier: threading.Barrier):
        self._barrier = barrier

    def close(self) -> None:
        self._barrier.wait(20)


def test_slow_sinks_are_closed_in_parallel() -> None:
    barrier = threading.Barrier(3)
    sinks = {f"sink {number}": Rendezvous(barrier) for number in range(3)}
    SinkGroup(sinks).close()  # in sequence it would time out


def test_a_sink_that_takes_long_to_close_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory, "_REPORT_SECONDS", 0.05)
    go_on, said = threading.Event(), list[str]()

    class Slow(Sink):
        def close(self) -> None:
            go_on.wait(20)

    def info(text: str) -> None:
        said.append(text)
        go_on.set()

    SinkGroup({"the recording": Slow(), "the snapshots": Sink()}, info).close()
    assert said == ["stopping: completing the recording"]


def test_an_error_of_one_sink_is_raised_after_all_others_are_closed() -> None:
    closed = []

    class Failing(Sink):
        def close(self) -> None:
            raise OSError("a bug")

    class Working(Sink):
        def close(self) -> None:
            closed.append(self)

    with pytest.raises(OSError, match="a bug"):
        SinkGroup({"failing": Failing(), "working": Working()}).close()
    assert len(closed) == 1


def test_sinks_that_wait_for_disk_or_network_are_closed_in_parallel(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "on": ("label=dog",),
        "snapshots": tmp_path / "shots",
        "record": str(tmp_path / "video.mkv"),
        "mqtt": "mqtt://127.0.0.1:1",
        "web": ":0",
    }
    with ExitStack() as stack:
        sinks = opened(stack, **options).sinks
        for sink in sinks:
            stack.callback(sink.close)
        group = sinks[-1]
        assert isinstance(group, SinkGroup)
        assert [type(sink).__name__ for sink in group.sinks.values()] == [
            "LivePage", "Snapshots", "Recording", "Mqtt",
        ]  # fmt: skip


def test_a_run_ends_within_the_stop_timeout_of_systemd() -> None:
    (limit,) = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT.read_text(), re.M)
    slowest = max(
        recording._CLOSE_TIMEOUT,
        snapshots._CLOSE_TIMEOUT,
        mqtt._CLOSE_TIMEOUT + 0.1,
        server._CLOSE_TIMEOUT + stills._CLOSE_TIMEOUT,
    )
    # The sources, the sinks, the audit, the metrics.
    longest = (
        scheduler._POLL_SECONDS
        + scheduler._CLOSE_SECONDS
        + slowest
        + audit._GRACE
        + server._CLOSE_TIMEOUT
    )
    assert longest < float(limit) - 2, "and leave two seconds for the engine"
    assert video_writer._CLOSE_TIMEOUT < recording._CLOSE_TIMEOUT, (
        "so that an incomplete video is reported"
    )
