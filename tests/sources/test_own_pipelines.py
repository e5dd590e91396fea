"""Pipelines of the user's own, `gst:`, which are no cameras until they say so."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge.errors import SourceError
from edge.run.interfaces import Result, Sink
from edge.run.loop import run
from edge.run.status import Transition
from edge.sources.camera import Camera
from edge.sources.opening import feed
from edge.sources.source import Source

WAIT = 60.0
BESIDE = Camera("test://ball?width=320&height=240", name="beside")

Serve = Callable[..., tuple[str, "subprocess.Popen[str]"]]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Until(Sink):
    """Ends the run at the state that is waited for; what the source went through before."""

    def __init__(self, name: str, state: str, then: Callable[[], object] = lambda: None):
        self.states: list[str] = []
        self.reasons: list[str] = []
        self.stop = threading.Event()
        self._name, self._state, self._then = name, state, then
        self._ends = time.monotonic() + WAIT

    def write(self, result: Result) -> None:
        if time.monotonic() > self._ends:
            self.stop.set()

    def changed(self, transition: Transition) -> None:
        if transition.source != self._name:
            return
        self.states.append(transition.state)
        self.reasons.append(transition.reason)
        if transition.state == "waiting":
            self._then()
        if transition.state == self._state:
            self.stop.set()


def play(engine: Any, uri: str, until: Until, **asked: Any) -> None:
    feeds = [feed(Camera(uri, name="own", **asked)), feed(BESIDE)]
    run(engine, feeds, [until], stop=until.stop)


def test_a_camera_that_is_off_at_the_start_is_waited_for(engine: Any, rtsp: Serve) -> None:
    port = free_port()
    until = Until("own", "playing", then=lambda: until.states.count("waiting") > 1 or on())
    camera = f"rtspsrc location=rtsp://127.0.0.1:{port}/camera latency=50"

    def on() -> None:
        rtsp("--port", str(port))

    play(engine, f"gst:{camera} ! decodebin ! videoconvert", until)
    assert until.states[:2] == ["connecting", "waiting"]
    assert until.states[-1] == "playing"


def test_a_device_that_is_not_plugged_in_is_waited_for(engine: Any) -> None:
    until = Until("own", "waiting")
    play(engine, "gst:v4l2src device=/dev/video77 ! videoconvert", until)
    assert until.states == ["connecting", "waiting"]


@pytest.mark.parametrize("realtime", [False, True])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("filesrc location=/nope.mp4 ! decodebin", "nope.mp4"),
        ("rtspsrc location=rtsp://127.0.0.1:9/x ! decodbin", "decodbin"),
    ],
)
def test_a_missing_file_and_a_slip_of_the_pen_fail_at_once(
    text: str, said: str, realtime: bool, engine: Any
) -> None:
    until = Until("own", "failed")
    play(engine, f"gst:{text}", until, realtime=realtime)
    assert until.states == ["connecting", "failed"]
    assert said in until.reasons[-1]
    with pytest.raises(SourceError) as caught:
        run(engine, [feed(Camera(f"gst:{text}", realtime=realtime))], [])
    assert "--wait" not in str(caught.value)


def test_alone_a_camera_that_is_off_ends_the_run_and_the_error_tells_of_wait(engine: Any) -> None:
    uri = f"gst:rtspsrc location=rtsp://127.0.0.1:{free_port()}/x ! decodebin ! videoconvert"
    with pytest.raises(SourceError, match="to keep trying add --wait"):
        run(engine, [feed(Camera(uri))], [])


@pytest.mark.parametrize("realtime", [False, True])
def test_a_film_ends(realtime: bool, engine: Any, numbered: Path) -> None:
    """In real time, too: it is as little a camera as the same film by its path."""
    uri = f"gst:filesrc location={numbered} ! decodebin ! videoconvert"
    until = Until("own", "ended")
    play(engine, uri, until, realtime=realtime)
    assert until.states == ["connecting", "playing", "ended"]


def test_whether_it_is_a_camera_is_known_when_it_was_opened_in_vain() -> None:
    source = Source("gst:v4l2src device=/dev/video77 ! videoconvert")
    assert not source.camera
    with pytest.raises(SourceError):
        source.open()
    assert source.camera
