"""What systemd hears, on a real datagram socket: this test plays systemd."""

from __future__ import annotations

import os
import socket
import time
import uuid
from pathlib import Path

import pytest

from edge.run.status import SourceStatus, Status, Transition
from edge.service.systemd import StatusLine, Systemd, Watchdog, describe


class Manager:
    """The socket that systemd listens on, and what came to it."""

    def __init__(self, address):
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)

    def heard(self):
        """The messages that have come since the last call."""
        self.socket.setblocking(False)
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return messages


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    name = f"@edge-{uuid.uuid4()}" if request.param == "abstract" else f"{tmp_path}/notify"
    manager = Manager(name)
    yield manager
    manager.socket.close()


@pytest.fixture
def said():
    return []


def test_ready_comes_with_a_status_in_one_message(manager):
    Systemd(manager.address).ready("2 cameras")
    assert manager.heard() == ["READY=1\nSTATUS=2 cameras"]


def test_a_reload_has_a_beginning_with_its_time_and_an_end(manager):
    systemd = Systemd(manager.address)
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    with systemd.reloading():
        (message,) = manager.heard()
    lines = dict(line.split("=") for line in message.split("\n"))
    assert lines["RELOADING"] == "1"
    assert before <= int(lines["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    assert manager.heard() == ["READY=1"]


def test_a_reload_that_fails_ends_too(manager):
    with pytest.raises(ValueError, match="wrong"), Systemd(manager.address).reloading():
        raise ValueError("wrong")
    assert manager.heard()[-1] == "READY=1"


def test_the_end_is_told(manager):
    Systemd(manager.address).stopping()
    assert manager.heard() == ["STOPPING=1"]


def test_a_status_is_one_line_whatever_a_camera_is_called(manager):
    Systemd(manager.address).status("door\nREADY=1\x1b waits")
    assert manager.heard() == ["STATUS=door READY=1  waits"]


def test_without_systemd_nobody_is_told(said):
    systemd = Systemd.of({}, said.append)
    systemd.ready("x")
    systemd.stopping()
    Watchdog(systemd, Status()).heartbeat(0.0)
    with systemd.reloading():
        pass
    assert said == []
    assert systemd.watchdog is None


def test_a_socket_that_is_gone_is_said_once_and_ends_nothing(tmp_path, said):
    systemd = Systemd(f"{tmp_path}/gone", info=said.append)
    systemd.ready("x")
    systemd.status("y")
    (text,) = said
    assert "cannot notify systemd" in text
    assert "No such file" in text


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, None),  # a parent's
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_the_one_that_systemd_asks_of_this_process(environ, seconds, said):
    assert Systemd.of(environ, said.append).watchdog == seconds


def test_the_watchdog_hears_of_progress_at_most_three_times_in_its_time(manager):
    watchdog = Watchdog(Systemd(manager.address, watchdog=30.0), Status())
    for now in range(100, 130):
        watchdog.heartbeat(now)
    assert manager.heard() == ["WATCHDOG=1"] * 3  # at 100, 110 and 120


def test_a_run_that_is_stuck_in_its_drivers_is_not_called_alive(manager):
    status = Status()
    watchdog = Watchdog(Systemd(manager.address, watchdog=30.0), status)
    for now, status.stuck in ((0, False), (100, True), (200, True), (300, False)):
        watchdog.heartbeat(now)
    assert manager.heard() == ["WATCHDOG=1"] * 2


def test_a_beat_that_could_not_be_told_is_told_with_the_next(manager):
    manager.socket.close()
    if not manager.address.startswith("@"):
        Path(manager.address).unlink()
    watchdog = Watchdog(Systemd(manager.address, watchdog=30.0), Status())
    watchdog.heartbeat(0.0)
    again = Manager(manager.address)
    watchdog.heartbeat(0.1)
    assert again.heard() == ["WATCHDOG=1"]
    again.socket.close()


def test_a_systemd_that_does_not_read_holds_up_no_frame(manager):
    systemd = Systemd(manager.address, watchdog=30.0)
    while systemd.alive():
        pass  # until the socket's queue is full
    began = time.monotonic()
    assert not any(systemd.alive() for _ in range(20))
    assert time.monotonic() - began < 10


def test_the_status_line_tells_what_the_last_seconds_were_like(manager):
    now = [100.0]
    status = Status(clock=lambda: now[0])
    status.change(Transition("door", "playing"))
    line = StatusLine(Systemd(manager.address), status, every=5.0)
    for _ in range(20):
        now[0] += 0.5
        status.total.add(1.0, 1.0, now[0], now[0])
        line.heartbeat(now[0])
    assert manager.heard() == ["STATUS=1 of 1 cameras playing, 2.0 frames per second"] * 2


def test_a_status_names_the_cameras_that_do_not_play_and_why():
    sources = [
        SourceStatus("door", "playing"),
        SourceStatus("old", "ended"),
        SourceStatus("yard", "waiting", "no frame for 10 s"),
        SourceStatus("gate", "connecting"),
    ]
    assert describe(sources, 29.94) == (
        "1 of 3 cameras playing, 29.9 frames per second; "
        "yard waiting (no frame for 10 s); gate connecting"
    )


def test_of_many_that_do_not_play_only_some_are_named():
    text = describe([SourceStatus(f"c{number}", "waiting") for number in range(16)], 0.0)
    assert text.endswith("c0 waiting; c1 waiting; c2 waiting; and 13 more")
