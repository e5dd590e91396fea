"""What a run is asked for besides labels: what does not fit together, and how it all ends."""

from __future__ import annotations

import re
import threading
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edge.engine.engine import Engine
from edge.outputs import console_log
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
ENGINE = cast(Engine, SimpleNamespace(passport=SimpleNamespace(labels=["dog"]), device=None))


def opened(stack: ExitStack, **asked: Any) -> Outputs:
    config = Config(cameras=(Camera("test://ball", name="ball"),), **asked)
    return open_outputs(config, ENGINE, Status(), stack, threading.Event(), print, print)


def test_time_alone_makes_the_narrator_speak(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A camera that came and went and stays away makes no more news."""
    monkeypatch.setattr(console_log, "_OFTEN", 0)
    with ExitStack() as stack:
        outputs = opened(stack)
        outputs.sinks[0].changed(Transition("ball", "playing"))
        outputs.sinks[0].changed(Transition("ball", "waiting", "it is off"))
        monkeypatch.setattr(console_log, "_MINUTE", 0.0)
        outputs.heartbeat()
    assert capfd.readouterr().out.splitlines()[-1] == "ball: it is off; trying again"


class Meeting(Sink):
    """Ends when the others do, and not before."""

    def __init__(self, barrier: threading.Barrier):
        self._barrier = barrier

    def close(self) -> None:
        self._barrier.wait(20)


def test_sinks_that_take_long_to_end_end_at_once() -> None:
    barrier = threading.Barrier(3)
    SinkGroup([Meeting(barrier) for _ in range(3)]).close()  # one by one this would break it


def test_what_one_raises_at_its_end_is_raised_after_the_others_ended() -> None:
    ended = []

    class Failing(Sink):
        def close(self) -> None:
            raise OSError("a fault of ours")

    class Ending(Sink):
        def close(self) -> None:
            ended.append(self)

    with pytest.raises(OSError, match="a fault of ours"):
        SinkGroup([Failing(), Ending()]).close()
    assert len(ended) == 1


def test_whatever_waits_for_a_disk_or_a_network_ends_with_the_others(tmp_path: Path) -> None:
    asked: dict[str, Any] = {
        "on": ("label=dog",),
        "snapshots": tmp_path / "shots",
        "record": str(tmp_path / "film.mkv"),
        "mqtt": "mqtt://127.0.0.1:1",
        "web": ":0",
    }
    with ExitStack() as stack:
        sinks = opened(stack, **asked).sinks
        for sink in sinks:
            stack.callback(sink.close)
        together = sinks[-1]
        assert isinstance(together, SinkGroup)
        assert [type(sink).__name__ for sink in together.sinks] == [
            "Snapshots", "Recording", "Mqtt", "Web",
        ]  # fmt: skip


def test_the_end_of_a_run_takes_less_time_than_systemd_gives_it() -> None:
    (given,) = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT.read_text(), re.M)
    slowest = max(
        recording._PATIENCE,
        snapshots._PATIENCE,
        mqtt._FLUSH + 0.1,
        server._CLOSING + stills._CLOSING,
    )
    # The sources, the sinks, the audit, the metrics.
    longest = scheduler._NAP + scheduler._JOIN + slowest + audit._GRACE + server._CLOSING
    assert longest < float(given) - 2, "and leave two seconds for the engine"
    assert video_writer._FINISH < recording._PATIENCE, "so that a film's missing end is said"
