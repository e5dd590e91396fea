"""Errors of GStreamer in words of people: what is wrong, and what to type next."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.errors import AccessError, SourceError
from edge.sources.camera import Camera
from edge.sources.credentials import resolve
from edge.sources.diagnostics import connection_error, explain
from edge.sources.gst import gstreamer
from edge.sources.source import Source
from tests.sources.webcam import mute_camera, webcam


@pytest.mark.parametrize(
    ("uri", "code", "said"),
    [
        ("/dev/video0", "BUSY", "the camera /dev/video0 is busy; see who: fuser -v /dev/video0"),
        ("v4l2:///dev/video0?fps=9", "BUSY", "is busy; see who: fuser -v /dev/video0"),
        ("/dev/video0", "SETTINGS", "cannot be used (Said so); see what it offers"),
        ("csi://0", "FAILED", "run: sudo systemctl restart nvargus-daemon"),
        ("rtsp://u:p@h/x", "NOT_AUTHORIZED", "the camera at h:554 refuses this user name or pass"),
        ("http://h/x", "NOT_AUTHORIZED", "the camera at h:80 requires a user name and a password"),
        ("rtsp://u:p@h/x", "NOT_FOUND", "has no stream at this path: rtsp://***@h/x"),
        ("gst:x location=rtsp://u:p@h", "READ", "the pipeline gst:x location=rtsp://***@h fails"),
        ("rtsp://u:p/w@h/x", "READ", "rtsp://***@h/x has no valid host and port; write rtsp://"),
    ],
)
def test_explain(uri: str, code: str, said: str) -> None:
    from gi.repository import GLib

    number = int(getattr(gstreamer().ResourceError, code))
    error = GLib.Error("Said so.", "gst-resource-error-quark", number)
    assert said in str(explain(resolve(uri), error))


def test_a_usb_camera_without_such_a_mode() -> None:
    from gi.repository import GLib

    error = GLib.Error("Internal data stream error.", "gst-stream-error-quark", 1)
    debug = "streaming stopped, reason not-negotiated (-4)"
    said = str(explain(resolve("/dev/video0?width=9"), error, debug))
    assert said.startswith(
        "the camera /dev/video0?width=9 does not have this mode; see what it offers: "
    )
    assert said.endswith("v4l2-ctl --list-formats-ext -d /dev/video0")


def said_of(camera: Camera | str) -> SourceError:
    """Why it does not open."""
    with pytest.raises(SourceError) as caught, Source(camera):
        pass
    return caught.value


def test_what_a_web_camera_answers() -> None:
    with webcam([b""], login=b"joe:s3cret") as url:
        port = url.rpartition(":")[2]
        place = f"the camera at 127.0.0.1:{port}"
        asks = said_of(f"{url}/video")
        assert isinstance(asks, AccessError)
        assert str(asks).startswith(f"{place} requires a user name and a password; write")
        refused = said_of(url.replace("//", "//joe:hunter2@") + "/video")
        assert isinstance(refused, AccessError)
        assert str(refused).startswith(f"{place} refuses this user name or password")
        home = url.replace("//", "//joe:s3cret@")
        for path, said in {
            "404": f"{place} has no stream at this path: http://***@127.0.0.1:{port}/404",
            "401/other": f"{place} refuses this user name or password",
            "403": f"{place} answers 403 Forbidden; allow this user",
            "500": f"{place} answers 500 Internal Server Error; restart the camera",
            "503": f"{place} answers 503 Service Unavailable; close other viewers of the camera",
            "page": f"http://***@127.0.0.1:{port}/page is text/html, not an MJPEG stream; find",
            "404/film.mp4": "has no stream at this path",
        }.items():
            error = said_of(f"{home}/{path}")
            assert said in str(error)
            assert "s3cret" not in repr(error)


@pytest.mark.parametrize("verb", ["OPTIONS", "DESCRIBE", "SETUP", "PLAY"])
@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("401 Unauthorized", " requires a user name and a password; write"),
        ("403 Forbidden", " answers 403 Forbidden; allow this user"),
        ("404 Not Found", " has no stream at this path: rtsp://127.0.0.1"),
        ("453 Not Enough Bandwidth", " answers 453 Not Enough Bandwidth; close other viewers"),
        ("500 Oops", " answers 500 Internal Server Error; restart the camera"),
        ("503 Busy", " answers 503 Service Unavailable; close other viewers of the camera"),
        ("599 Made Up", " answers 599; restart the camera"),
    ],
)
def test_what_an_rtsp_camera_answers(verb: str, status: str, said: str) -> None:
    with mute_camera(statuses={verb: status}) as url:
        error = said_of(url)
    assert str(error).startswith(f"the camera at {url.split('/')[2]}{said}")
    assert isinstance(error, AccessError) == (status[:3] == "401")


def test_a_page_is_no_film() -> None:
    with webcam([b""]) as url:
        said = str(said_of(f"{url}/page.mp4"))
    assert said.endswith(
        "/page.mp4 is a page of text, not a video; "
        "find the address of its stream in the camera's manual"
    )


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of 127.0.0.1, signed by itself: the certificate and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    made = f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {key} -out {certificate}"
    named = "-subj /CN=camera -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(f"{made} {named}".split(), check=True, capture_output=True)
    return certificate, key


def test_a_certificate_that_nobody_knows(certificate: tuple[Path, Path]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with webcam([b""], context=context) as url:
        place = f"the camera at {url.partition('//')[2]}"
        said = str(said_of(f"{url}/video"))
    assert said.startswith(f"the certificate of {place} is not trusted (self-signed certificate); ")
    assert "sudo update-ca-certificates" in said


def test_a_certificate_that_is_trusted_by_name(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the knock, and by GStreamer, to which the camera answers."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with webcam([b""], context=context) as url:
        assert "has no stream at this path" in str(said_of(f"{url}/404"))


def test_a_camera_that_speaks_no_tls() -> None:
    with webcam([b""]) as url:
        said = str(said_of(f"{url.replace('http', 'https')}/video"))
    assert said.startswith(f"the camera at {url.partition('//')[2]} does not speak TLS (")
    assert said.endswith("; write http:// for https://")


def test_udp_that_does_not_arrive() -> None:
    with mute_camera() as url:
        said = str(said_of(Camera(url, transport="udp")))
    assert said == (
        f"the camera at {url.split('/')[2]} is connected, but none of its UDP packets arrive; "
        "allow UDP in the firewall, or omit: --transport udp"
    )


def test_a_camera_that_refuses_the_transport() -> None:
    with mute_camera(refuses_tcp=True) as url:
        said = str(said_of(url))
    assert said == (
        f"the camera at {url.split('/')[2]} sends no video over this transport; "
        "try again with --transport udp, or without it; or use another path of the camera"
    )


def test_a_stream_of_sound() -> None:
    from gi.repository import GLib

    error = GLib.Error("Internal data stream error.", "gst-stream-error-quark", 1)
    said = str(explain(resolve("rtsp://h/x"), error, "streaming stopped, reason not-linked (-1)"))
    assert said == "rtsp://h/x has no video stream; use another path of the camera"


@pytest.fixture
def closed() -> Iterator[int]:
    """A port on loopback at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize("scheme", ["rtsp", "http", "https"])
def test_nobody_there(scheme: str, closed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST", f"127.0.0.1:{closed}")
    problem = connection_error(resolve(f"{scheme}://127.0.0.1:{closed}/x"))
    assert str(problem) == (
        f"the camera at 127.0.0.1:{closed} cannot be reached (Connection refused); "
        "check its address, its power and the network"
    )
    hidden = connection_error(resolve(f"{scheme}://${{HOST}}/x"))
    assert str(hidden).startswith(f"the camera {scheme}://${{HOST}}/x cannot be reached")
    assert connection_error(resolve("test://ball")) is None


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("H.265 decoder", "GStreamer has no H.265 decoder, which rtsp://h/x needs; run: sudo apt"),
        ("text/html decoder", "rtsp://h/x is a page of text, not a video"),
    ],
)
def test_what_is_not_installed(missing: str, said: str) -> None:
    from gi.repository import GLib

    error = GLib.Error("Your GStreamer installation is missing a plug-in.", "gst-core-error-quark")
    assert said in str(explain(resolve("rtsp://h/x"), error, missing=missing))
