"""Labelled video over RTSP, watched by a real client on loopback."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.errors import AddressError, MissingPackage, SourceError
from edge.outputs.record import rtsp as broadcast_module
from edge.outputs.record.overlay import captioned
from edge.outputs.record.recording import record
from edge.outputs.record.rtsp import RtspServer, address
from edge.outputs.record.video_files import VideoFiles
from edge.preprocess.surface import Surface
from edge.sources.frame import Frame
from edge.sources.source import Source


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline, "nothing happened for a minute"
        time.sleep(0.01)


class Camera:
    """Gives a broadcast a picture thirty times a second, on a thread of its own."""

    def __init__(self, broadcast: RtspServer, source: str, picture: np.ndarray) -> None:
        self.picture, self.drawn = picture, 0
        self._broadcast, self._source = broadcast, source
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(1 / 30):
            surface = Surface.from_rgb(self.picture)
            frame = Frame(self._source, number, None, time.monotonic(), "system", surface)
            self._broadcast.take(frame, lambda: self._draw(surface))  # noqa: B023
            number += 1

    def _draw(self, surface: Surface) -> Surface:
        self.drawn += 1
        return captioned(surface, ("a label",))

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@contextmanager
def showing(
    uri: str, pictures: dict[str, np.ndarray], said: list[str]
) -> Iterator[tuple[int, dict[str, Camera]]]:
    """A broadcast of some sources: its port, and the cameras."""
    broadcast = RtspServer(address(uri), len(pictures) > 1, said.append, said.append)
    cameras = {source: Camera(broadcast, source, shown) for source, shown in pictures.items()}
    try:
        wait_until(lambda: sum("showing" in text for text in said) == len(pictures))
        yield broadcast._server.get_bound_port(), cameras
    finally:
        for camera in cameras.values():
            camera.stop()
        broadcast.close()
        assert not broadcast._thread.is_alive()


def test_a_viewer_sees_the_labelled_picture_soon(paint: Any, number_in: Any) -> None:
    said: list[str] = []
    with showing("rtsp://:0/live", {"gate": paint(37)}, said) as (port, _):
        assert said[1:] == [f"showing gate at rtsp://127.0.0.1:{port}/live"]
        with Source(f"rtsp://127.0.0.1:{port}/live") as viewer:
            shown = [viewer.read(20) for _ in range(10)]
            for each in shown:
                assert each is not None
                assert number_in(each.pixels[:240]) == 37
                assert each.pixels[240:].max() > 150, "a label"
            times = [each.pts for each in shown if each is not None and each.pts is not None]
            assert times == sorted(set(times))


def test_nothing_is_drawn_while_nobody_watches(paint: Any) -> None:
    said: list[str] = []
    with showing("rtsp://:0/live", {"gate": paint(1)}, said) as (port, cameras):
        camera = cameras["gate"]
        assert camera.drawn == 0
        with Source(f"rtsp://127.0.0.1:{port}/live") as viewer:
            assert viewer.read(20) is not None
        wait_until(lambda: not camera._broadcast._feeds)
        drawn = camera.drawn
        assert drawn > 0
        time.sleep(0.2)
        assert camera.drawn <= drawn + 1
        with Source(f"rtsp://127.0.0.1:{port}/live") as viewer:
            assert viewer.read(20) is not None, "and the next viewer is served"


def test_a_viewer_who_vanished_is_no_viewer_any_more(
    paint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By UDP, without a word, as when a laptop is shut: its session ends by its time alone."""
    monkeypatch.setattr(broadcast_module, "_TIDY", 1)
    with showing("rtsp://:0/live", {"gate": paint(1)}, []) as (port, cameras):
        broadcast, url = cameras["gate"]._broadcast, f"rtsp://127.0.0.1:{port}/live"
        with socket.create_connection(("127.0.0.1", port), timeout=30) as viewer:

            def ask(request: str, *headers: str) -> str:
                viewer.sendall("\r\n".join([f"{request} RTSP/1.0", *headers, "", ""]).encode())
                return viewer.recv(65536).decode()

            ask(f"DESCRIBE {url}", "CSeq: 1")
            way = "Transport: RTP/AVP;unicast;client_port=50000-50001"
            session = (
                ask(f"SETUP {url}/stream=0", "CSeq: 2", way)
                .partition("Session: ")[2]
                .partition(";")[0]
            )
            assert "200 OK" in ask(f"PLAY {url}", "CSeq: 3", f"Session: {session}")
            assert broadcast._feeds

            def soon_over(_pool: Any, session: Any) -> Any:
                session.set_property("extra-timeout", 0)
                session.set_timeout(1)
                return broadcast._server_types.RTSPFilterResult.KEEP

            broadcast._server.get_session_pool().filter(soon_over)
            wait_until(lambda: not broadcast._feeds)


def test_each_source_has_its_own_stream(paint: Any, number_in: Any) -> None:
    said: list[str] = []
    pictures = {"rtsp://gate/1": paint(7), "yard": paint(9)}
    with showing("rtsp://:0/live", pictures, said) as (port, _):
        for path, number in (("rtsp-gate-1", 7), ("yard", 9)):
            with Source(f"rtsp://127.0.0.1:{port}/live/{path}") as viewer:
                frame = viewer.read(20)
                assert frame is not None
                assert number_in(frame.pixels[:240]) == number


def test_a_source_that_comes_later_does_not_take_the_stream_of_the_first(
    paint: Any, number_in: Any
) -> None:
    said: list[str] = []
    with showing("rtsp://:0/live", {"gate": paint(7)}, said) as (port, cameras):
        for name, number in (("yard/1", 8), ("yard-1", 9)):
            later = Camera(cameras["gate"]._broadcast, name, paint(number))
            wait_until(lambda name=name: any(name in text for text in said))
            cameras[name] = later
        for path, number in (("", 7), ("/yard-1", 8), ("/yard-1-2", 9)):
            with Source(f"rtsp://127.0.0.1:{port}/live{path}") as viewer:
                frame = viewer.read(20)
                assert frame is not None
                assert number_in(frame.pixels[:240]) == number


def test_a_picture_of_another_size_goes_on_in_the_same_stream(paint: Any) -> None:
    said: list[str] = []
    with (
        showing("rtsp://:0/live", {"gate": paint(7)}, said) as (port, cameras),
        Source(f"rtsp://127.0.0.1:{port}/live") as viewer,
    ):

        def width() -> int:
            frame = viewer.read(20)
            assert frame is not None
            return frame.pixels.shape[1]

        assert width() == 320
        cameras["gate"].picture = np.full((360, 640, 3), 90, np.uint8)
        wait_until(lambda: width() == 640)


def test_only_the_user_with_the_password_may_watch(paint: Any) -> None:
    said: list[str] = []
    with showing("rtsp://me:se%40cret@:0/live", {"gate": paint(7)}, said) as (port, _):
        for who in ("", "me:wrong@", "you:se%40cret@"):
            with (
                pytest.raises(SourceError, match=r"refuses|asks for a user name"),
                Source(f"rtsp://{who}127.0.0.1:{port}/live"),
            ):
                pass
        with Source(f"rtsp://me:se%40cret@127.0.0.1:{port}/live") as viewer:
            assert viewer.read(20) is not None
    assert not any("cret" in text for text in said)


def test_the_password_does_not_cross_the_network(paint: Any) -> None:
    said: list[str] = []
    with (
        showing("rtsp://me:secret@:0/live", {"gate": paint(7)}, said) as (port, _),
        socket.create_connection(("127.0.0.1", port), timeout=30) as client,
    ):
        url = f"rtsp://127.0.0.1:{port}/live"
        client.sendall(f"DESCRIBE {url} RTSP/1.0\r\nCSeq: 1\r\n\r\n".encode())
        answer = client.recv(4000).decode()
    assert "401" in answer
    assert "Digest" in answer
    assert "Basic" not in answer


def test_without_a_host_only_this_machine_is_served(paint: Any) -> None:
    said: list[str] = []
    with (
        showing("rtsp://:0/live", {"gate": paint(7)}, said) as (port, _),
        pytest.raises(ConnectionRefusedError),
    ):
        socket.create_connection(("127.0.0.2", port), timeout=30)
    assert not any("whoever" in text for text in said)


def test_that_all_can_watch_is_said(paint: Any) -> None:
    said: list[str] = []
    with showing("rtsp://0.0.0.0:0/live", {"gate": paint(7)}, said) as (port, _):
        socket.create_connection(("127.0.0.2", port), timeout=30).close()
    assert any("whoever reaches 0.0.0.0:0 can watch" in text for text in said)


def test_the_stream_of_a_source_that_ended_is_gone(paint: Any) -> None:
    said: list[str] = []
    with showing("rtsp://:0/live", {"gate": paint(7)}, said) as (port, cameras):
        camera = cameras["gate"]
        with Source(f"rtsp://127.0.0.1:{port}/live") as viewer:
            assert viewer.read(20) is not None
            camera.stop()
            camera._broadcast.end("gate")
            with suppress(SourceError):  # not every client is told that a stream has ended
                while viewer.read(5) is not None:
                    pass
        with pytest.raises(SourceError, match="no stream at this path"):
            Source(f"rtsp://127.0.0.1:{port}/live").open()


def test_a_port_that_is_taken_is_refused_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressError, match=rf"127\.0\.0\.1:{port}.*name another port"):
            RtspServer(address(f"rtsp://:{port}/live"), False, print, print)


def test_without_the_server_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gi:
        @staticmethod
        def require_version(name: str, version: str) -> None:
            raise ValueError(f"Namespace {name} not available")

    monkeypatch.setattr(broadcast_module, "require", lambda _: Gi)
    with pytest.raises(MissingPackage, match=r"sudo apt install gir1\.2-gst-rtsp-server-1\.0"):
        RtspServer(address("rtsp://:0/live"), False, print, print)


@pytest.mark.parametrize(
    "uri",
    [
        "rtsp://",
        "rtsp://:8554",
        "rtsp://host/live",
        "rtsp://:8554/",
        "rtsp://:8554/a/b",
        "rtsp://:8554/a b",
        "rtsp://:port/live",
        "rtsp://:99999/live",
        "rtsp://me@:8554/live",
    ],
)
def test_what_is_no_address_is_refused(uri: str) -> None:
    with pytest.raises(AddressError, match=r"; write rtsp://"):
        address(uri)


def test_an_error_does_not_show_the_password() -> None:
    with pytest.raises(AddressError) as error:
        address("rtsp://me:secret@host/live")
    assert "secret" not in str(error.value)


def test_the_target_decides_between_a_file_and_a_stream(tmp_path: Path) -> None:
    for target, kind in (("RTSP://:0/live", RtspServer), (f"{tmp_path}/film.mkv", VideoFiles)):
        recording = record(target, False, threading.Event(), print, print)
        assert isinstance(recording._outlet, kind)
        recording.close()
