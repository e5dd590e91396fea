"""The tools of this folder do what they say; otherwise nothing here would prove anything."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from edge.engine.engine import Engine
from edge.preprocess.colour import to_rgb
from edge.sources.source import Source
from tests.chaos import reader
from tests.chaos.command import Run, Seen, until
from tests.chaos.measure import lost, percentiles, truth
from tests.chaos.proxy import Proxy
from tests.chaos.servers import Cameras
from tests.chaos.stamps import Stamp, fields, now_ms, paint, read

pytestmark = pytest.mark.slow

LONG = 20.0  # seconds after which a socket never will


@pytest.fixture
def echo() -> Iterator[tuple[Proxy, socket.socket, socket.socket]]:
    """A proxy, a client on it, and the server's end of the client's connection."""
    server = socket.create_server(("127.0.0.1", 0))
    with closing(server), Proxy(server.getsockname()[1]) as proxy, connect(proxy) as client:
        accepted, _ = server.accept()
        accepted.settimeout(LONG)
        with closing(accepted):
            client.sendall(b"?")
            assert receive(accepted, 1) == b"?", "both ends are there"
            yield proxy, client, accepted


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=LONG)


def receive(end: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += end.recv(count - len(data)) or pytest.fail("the connection ended")
    return data


def silent(end: socket.socket, seconds: float = 0.3) -> bool:
    end.settimeout(seconds)
    try:
        return end.recv(1) == b"never"
    except TimeoutError:
        return True
    finally:
        end.settimeout(LONG)


def test_in_fair_weather_all_passes_both_ways_and_so_does_the_end(echo) -> None:
    _, client, server = echo
    data = bytes(range(256)) * 4096
    for end, other in ((client, server), (server, client)):
        end.sendall(data[: 1 << 16])
        assert receive(other, 1 << 16) == data[: 1 << 16]
    server.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    client.sendall(b"still")
    assert receive(server, 5) == b"still"


def test_a_delay_and_a_limit_take_their_time(echo) -> None:
    proxy, client, server = echo
    proxy.weather.delay = 0.3
    began = time.monotonic()
    server.sendall(b"late")
    assert receive(client, 4) == b"late"
    assert time.monotonic() - began >= 0.3
    proxy.weather.delay, proxy.weather.rate = 0.0, 40_000.0
    began = time.monotonic()
    server.sendall(bytes(20_000))
    receive(client, 20_000)
    assert time.monotonic() - began >= 0.3, "20 kB at 40 kB/s, the last of five parts at once"


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_frozen_way_keeps_what_is_sent_until_it_thaws(echo, way) -> None:
    proxy, client, server = echo
    sender, receiver = (client, server) if way == "up" else (server, client)
    proxy.weather.frozen = frozenset({way})
    sender.sendall(b"kept")
    receiver.sendall(b"passes")
    assert receive(sender, 6) == b"passes"
    assert silent(receiver)
    proxy.weather.frozen = frozenset()
    assert receive(receiver, 4) == b"kept"


@pytest.mark.parametrize("reset", [True, False])
def test_a_cut_ends_both_connections(echo, reset) -> None:
    proxy, client, server = echo
    proxy.cut(reset=reset)
    for end in (client, server):
        if reset:
            with pytest.raises(ConnectionResetError):
                end.recv(1)
        else:
            assert end.recv(1) == b""


def test_bits_flip_on_the_way_to_the_client_only(echo) -> None:
    proxy, client, server = echo
    proxy.weather.corrupt = 0.1
    data = bytes(1 << 15)
    client.sendall(data)
    assert receive(server, len(data)) == data
    server.sendall(data)
    hurt = receive(client, len(data))
    assert 0.08 < sum(byte != 0 for byte in hurt) / len(data) < 0.12
    assert all(byte.bit_count() <= 1 for byte in hurt)


def test_new_connections_are_refused_or_left_without_an_answer(echo) -> None:
    proxy, client, server = echo
    port = proxy.port
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    server.sendall(b"old")
    assert receive(client, 3) == b"old", "what was connected stays so"
    proxy.accept()
    assert proxy.port == port
    proxy.weather.silent = True
    with closing(connect(proxy)) as ignored:
        ignored.sendall(b"hello")
        assert silent(ignored)
    assert proxy.taken == 2


def test_a_stamp_is_read_from_its_picture_or_not_at_all(stamp_reader: Path) -> None:
    rng = np.random.default_rng(0)
    with Engine.open(stamp_reader) as engine:

        def shown(grey: np.ndarray) -> Stamp | None:
            best = engine(np.repeat(grey[..., None], 3, axis=2)).top(5)
            found = reader.values([class_id for class_id, *_ in best])
            return None if found is None else read(found, now_ms())

        for camera in (0, 5, 63):
            stamp = Stamp(camera, now_ms())
            assert shown(paint(stamp)) == stamp
            assert shown(paint(stamp, 640, 400)) == stamp
            assert shown(255 - paint(stamp)) is None
        assert shown(rng.integers(0, 256, (240, 320), np.uint8)) is None


def test_a_stamp_outlives_the_wrap_of_its_milliseconds() -> None:
    wrap = 1 << 20
    for taken in (7 * wrap - 1, 7 * wrap, 7 * wrap + 1):
        stamp = Stamp(1, taken)
        assert read(fields(stamp), 7 * wrap + 500) == stamp


def test_what_is_wrong_older_repeated_damaged_or_old_is_counted() -> None:
    def seen(source: str, camera: int, ms: int, at_ms: int) -> Seen:
        return Seen(source, 0, Stamp(camera, ms), 30.0, 5.0, at_ms / 1e3)

    fine = [seen("a", 1, 1000, 1040), seen("b", 2, 1001, 1041), seen("a", 1, 1100, 1140)]
    cameras = {"a": 1, "b": 2}
    told = truth(fine, cameras, fps=10)
    assert (told.frames, told.wrong, told.older, told.repeated) == (3, 0, 0, 0)
    assert (told.damaged, told.old) == (0, 0)
    assert told.age_ms == {"p50": 40.0, "p99": 40.0, "max": 40.0}
    assert told.off_ms["max"] == pytest.approx(10.0)
    assert truth([*fine, seen("b", 1, 1200, 1240)], cameras, 10).wrong == 1
    assert truth([*fine, seen("a", 1, 1100, 1180)], cameras, 10).repeated == 1
    assert truth([*fine, seen("a", 1, 1050, 1180)], cameras, 10).older == 1
    late = truth([*fine, seen("a", 1, 1200, 1900)], cameras, 10)
    assert (late.old, late.oldest) == (1, [[860, 700, 30, 5]])
    assert truth([*fine, seen("a", 1, 1200, 1900)], cameras, {"a": 1, "b": 10}).old == 0
    assert truth([*fine, Seen("a", 9, None, 1.0, 1.0, 2.0)], cameras, 10).damaged == 1


def test_pictures_without_a_result_are_counted_where_the_camera_was_there() -> None:
    seen = [Seen("a", 0, Stamp(1, ms), 0, 0, 0) for ms in (1000, 1100, 1300, 5000)]
    assert lost(seen, 1, [(1.0, 1.5)], fps=10) == 2
    assert lost(seen, 1, [(1.0, 1.2), (5.0, 5.1)], fps=10) == 0
    assert lost(seen, 2, [(1.0, 1.5)], fps=10) == 5


def test_percentiles_by_nearest_rank() -> None:
    assert percentiles(range(1, 1001)) == {"p50": 500, "p99": 990, "max": 1000}
    assert percentiles([]) == {"p50": None, "p99": None, "max": None}


def test_cameras_obey_and_come_back_on_their_port(stamp_reader: Path) -> None:
    def shown(frame) -> Stamp | None:
        best = engine(to_rgb(frame.surface)).top(5)
        found = reader.values([class_id for class_id, *_ in best])
        return None if found is None else read(found, now_ms())

    with Engine.open(stamp_reader) as engine, Cameras(["--cameras", 2, "--first", 7]) as cameras:
        port = cameras.port
        with Source(cameras.url(8)) as source:
            assert shown(source.read(LONG)).camera == 8
            cameras.tell("size 640 400")

            def larger() -> bool:
                return source.read(LONG).surface.layout.width == 640

            until(larger, "the pictures stay small")
            assert shown(source.read(LONG)).camera == 8
        cameras.kill()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        cameras.start()
        assert cameras.port == port
        with Source(cameras.url(7)) as source:
            first = shown(source.read(LONG))
            assert first.camera == 7
            cameras.freeze()
            time.sleep(0.3)
            cameras.thaw()
            assert shown(source.read(LONG)).ms > first.ms


def test_the_command_is_watched_from_outside(stamp_reader: Path) -> None:
    with Cameras() as cameras:
        url, began = cameras.url(), time.monotonic()
        with Run(stamp_reader, ["--source", url]) as run:
            assert run.await_picture(began) > began
            assert run.await_words(began, "320x240") > began
            needs = run.needs
            assert needs.rss_mb > 10
            assert needs.files > 3
            assert needs.threads > 1
            until(lambda: len(run.seen) > 30, "a second of pictures")
    told = truth(run.seen, {url: 0}, fps=30)
    assert run.exit == 0
    assert (told.wrong, told.older, told.repeated, told.damaged) == (0, 0, 0, 0)
