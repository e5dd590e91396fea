"""`edge run --config` as a service: this test plays systemd to the real command."""

from __future__ import annotations

import itertools
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

PATIENCE = 60  # seconds, on a busy machine


def config(engine, *names):
    """A configuration of cameras that never end, ten frames a second each."""
    cameras = [
        f'[[camera]]\nsource = "test://{name}"\nname = "{name}"\nmax_fps = 10\n' for name in names
    ]
    return f'engine = "{engine}"\nbackend = "onnxruntime"\nthreads = 1\n' + "\n".join(cameras)


def _until(is_last, next_):
    """What comes up to the one that is wanted; a TimeoutError when it is long in coming."""
    found, deadline = [], time.monotonic() + PATIENCE
    while not found or not is_last(found[-1]):
        if (left := deadline - time.monotonic()) <= 0:
            raise TimeoutError(f"it did not come, but {found[-3:]}")
        found.append(next_(left))
    return found


class Service:
    """The command, started as systemd does; what it tells systemd, and what it prints."""

    def __init__(self, folder, text, watchdog=None):
        self.path = folder / "cameras.toml"
        self.path.write_text(text)
        self.told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.told.bind(str(folder / "notify"))
        environ = os.environ | {"NOTIFY_SOCKET": str(folder / "notify")}
        if watchdog:
            environ["WATCHDOG_USEC"] = str(int(watchdog * 1e6))
        command = [sys.executable, "-m", "edge", "run", "--config", str(self.path)]
        self.process = subprocess.Popen(
            command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.results, self.errors = queue.Queue(), queue.Queue()
        for stream, lines in (
            (self.process.stdout, self.results),
            (self.process.stderr, self.errors),
        ):
            threading.Thread(target=self._read, args=(stream, lines), daemon=True).start()

    def _read(self, stream, lines):
        for line in stream:
            lines.put(line)

    def hears(self, wanted):
        """Wait for a message with this line: the whole message."""

        def next_(left):
            self.told.settimeout(left)
            return self.told.recv(4096).decode()

        return _until(lambda text: f"\n{wanted}" in f"\n{text}", next_)[-1]

    def says(self, wanted):
        """Wait for a line with these words on stderr."""
        _until(lambda line: wanted in line, lambda left: self.errors.get(timeout=left))

    def labels(self, source):
        """Wait for a frame of this source: all results up to it."""
        return _until(
            lambda result: result["source"] == source,
            lambda left: json.loads(self.results.get(timeout=left)),
        )

    def reload(self, text):
        self.path.write_text(text)
        self.process.send_signal(signal.SIGHUP)


@pytest.fixture
def start(tmp_path, built_engine):
    services = []

    def start(*names, **options):
        services.append(Service(tmp_path, config(built_engine, *names), **options))
        return services[-1]

    yield start
    for service in services:
        service.process.kill()
        service.process.wait()
        service.told.close()


def test_it_is_ready_once_and_says_how_it_goes(start):
    service = start("ball")
    assert "1 camera" in service.hears("READY=1")
    service.labels("ball")
    assert "1 of 1 cameras playing" in service.hears("STATUS=1 of 1")


def test_a_reload_puts_a_camera_in_and_out_while_the_others_play_on(start, built_engine):
    service = start("ball", "snow")
    service.hears("READY=1")
    numbers = [r["frame"] for r in service.labels("snow") if r["source"] == "ball"]

    service.reload(config(built_engine, "ball", "smpte"))
    assert "MONOTONIC_USEC=" in service.hears("RELOADING=1")
    service.hears("READY=1")
    service.says("1 cameras removed, 1 added, 1 unchanged")
    results = service.labels("smpte")
    numbers += [r["frame"] for r in results if r["source"] == "ball"]
    later = service.labels("smpte") + service.labels("ball") + service.labels("smpte")
    numbers += [r["frame"] for r in later if r["source"] == "ball"]
    assert numbers == sorted(set(numbers))  # a camera that was opened anew would begin at 0
    assert not [r for r in later if r["source"] == "snow"]


def test_a_reload_with_a_fault_says_where_and_changes_nothing(start, built_engine):
    service = start("ball")
    service.hears("READY=1")
    service.labels("ball")
    service.reload(config(built_engine, "ball", "snow") + "every = 0\n")
    service.hears("RELOADING=1")
    service.hears("READY=1")
    service.says("every cannot be 0")
    assert {r["source"] for _ in range(10) for r in service.labels("ball")} == {"ball"}


def test_the_watchdog_is_fed_for_as_long_as_frames_come(start):
    service = start("ball", watchdog=3.0)
    service.hears("READY=1")
    heard = []
    while len(heard) < 5:
        service.hears("WATCHDOG=1")
        heard.append(time.monotonic())
    gaps = [later - before for before, later in itertools.pairwise(heard)]
    assert min(gaps) > 0.5  # it is told what it needs, and no more


def test_a_run_that_is_stopped_tells_it_and_ends_soon(start):
    service = start("ball", "snow")
    service.hears("READY=1")
    service.labels("snow")
    service.process.terminate()
    service.hears("STOPPING=1")
    assert service.process.wait(PATIENCE) == 0


def test_a_configuration_with_a_fault_ends_it_before_it_is_ready(tmp_path, edge_command):
    path = tmp_path / "cameras.toml"
    path.write_text('engine = "cats"\n\n[[camera]]\nsource = "test://ball"\nfps = 3\n')
    done = edge_command("run", "--config", path)
    assert done.returncode == 1
    assert f"{path}:5: unknown key 'fps'" in done.stderr
    assert "did you mean max_fps?" in done.stderr
