"""Those to whom results go: away, deaf or full. The cameras are none the worse for it."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from urllib.request import urlopen

import pytest

from edge.sources.source import Source
from tests.chaos.command import until
from tests.chaos.measure import Fault, lost
from tests.chaos.ordeal import FPS, Keep, Times, watched
from tests.chaos.servers import Cameras
from tests.outputs.telemetry.mosquitto import Listener, Mosquitto, Road

pytestmark = pytest.mark.chaos


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    server = Mosquitto(tmp_path)
    server.start()
    yield server
    server.kill()


def test_a_broker_that_is_away(
    broker: Mosquitto, stamp_reader: Path, times: Times, keep: Keep
) -> None:
    """A thousand results wait for it; what is more is counted, to the last one."""
    seconds = times(60, 3)
    fault = Fault("MQTT broker away")
    road, hearer = Road(broker), Listener(broker)
    road.open()
    with Cameras() as cameras:
        urls = {cameras.url(): 0}
        with watched(fault, stamp_reader, urls, ["--mqtt", road.url]) as run:
            until(hearer.frames, "no result reaches the broker")
            road.close()
            left = time.monotonic()
            time.sleep(seconds)
            heard = len(hearer.frames())
            road.open()
            back = time.monotonic()
            fault.lost = lost(run.seen, 0, [(left, back)], FPS)
            until(lambda: len(hearer.frames()) > heard, "the broker is not found again", 90)
            again = time.monotonic() - back
            until(lambda: hearer.frames()[-1] >= run.seen[-1].frame - 60, "it stays behind")
    road.close()
    hearer.close()
    told = re.findall(r"(\d+) results (?:were dropped|did not reach)", run.text())
    missing = {one.frame for one in run.seen} - set(hearer.frames())
    fault.remark = f"{seconds} s; reconnected after {again:.1f} s; {len(missing)} results lost"
    assert len(missing) <= sum(map(int, told)), "each that is lost is counted"
    keep(fault)


def test_web_clients_that_never_read(stamp_reader: Path, times: Times, keep: Keep) -> None:
    """They ask for pictures, again and again, and take none; others are served meanwhile."""
    fault = Fault("web clients that never read")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Cameras() as cameras, ExitStack() as stack:
        url = cameras.url()
        with watched(fault, stamp_reader, {url: 0}, ["--web", f":{port}"]) as run:
            began = time.monotonic()
            request = f"GET /picture?source={url} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"
            for _ in range(20):
                deaf = stack.enter_context(closing(socket.socket()))
                deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                deaf.connect(("127.0.0.1", port))
                deaf.setblocking(False)
                with suppress(BlockingIOError):
                    deaf.send(request.encode() * 2000)
            time.sleep(times(30, 3))
            with urlopen(f"http://127.0.0.1:{port}/state", timeout=30) as answer:
                assert answer.status == 200
            fault.lost = lost(run.seen, 0, [(began, time.monotonic())], FPS)
    keep(fault)


def test_a_disk_that_is_full(stamp_reader: Path, tmp_path: Path, times: Times, keep: Keep) -> None:
    """On a disk of its own, 4 MB large, which only the command sees, and who looks through it."""
    fault = Fault("disk full while recording")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = 'mount -t tmpfs -o size=4m none "$0" && exec "$@"'
    before = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, str(disk)]
    if subprocess.run([*before, "true"], capture_output=True).returncode:
        pytest.skip("this user may mount nothing, not even for itself")
    with Cameras() as cameras:
        words = ["--record", f"{disk}/"]
        with watched(fault, stamp_reader, {cameras.url(): 0}, words, before=before) as run:
            seen = Path(f"/proc/{run.pid}/root{disk}")

            def grown() -> bool:
                return any(film.stat().st_size > 10_000 for film in seen.glob("*.mkv"))

            until(grown, "nothing is recorded")
            full = time.monotonic()
            with suppress(OSError), (seen / "filler").open("wb", buffering=0) as filler:
                while True:
                    filler.write(bytes(1 << 16))
            fault.noticed.append(run.await_words(full, str(disk)) - full)
            time.sleep(times(20, 1))
            films = len(list(seen.glob("*.mkv")))
            (seen / "filler").unlink()
            room = time.monotonic()
            until(lambda: len(list(seen.glob("*.mkv"))) > films, "nothing is recorded any more")
            again = time.monotonic() - room
            fault.lost = lost(run.seen, 0, [(full, time.monotonic())], FPS)
            time.sleep(1)
            copies = [Path(shutil.copy(film, tmp_path)) for film in sorted(seen.glob("*.mkv"))]
    fault.remark = f"records again {again:.1f} s after there is room"
    with Source(str(copies[0])) as film:
        assert film.read(10) is not None, "what was recorded before can be played"
    assert not list(disk.iterdir()), "nobody else has seen that disk"
    keep(fault)
