"""RTSP over TLS, from a real server whose certificate was made here."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.errors import SourceError
from edge.sources.camera import Camera
from edge.sources.credentials import resolve
from edge.sources.diagnostics import connection_error
from edge.sources.pipelines import check_source, pipeline
from edge.sources.source import Source
from edge.sources.uris import address_of
from tests.sources.streams import camera_of


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of 127.0.0.1, signed by itself: the certificate and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    key, certificate = folder / "key.pem", folder / "camera.pem"
    made = f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {key} -out {certificate}"
    named = "-subj /CN=camera -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(f"{made} {named}".split(), check=True, capture_output=True)
    return certificate, key


@pytest.fixture(scope="module")
def url(certificate: tuple[Path, Path]) -> Iterator[str]:
    with camera_of("--tls", *map(str, certificate), "sound", "320x240") as (url, _):
        yield url


def test_a_camera_whose_certificate_is_trusted_plays(
    url: str, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its frames have the camera's own times, and a password is hidden, as over plain RTSP."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    with Source(url.replace("//", "//joe:s3cret@")) as source:
        assert source.live and source.camera and source.link == "network"
        assert source._ages is not None
        assert "s3cret" not in source.name
        for _ in range(5):
            frame = source.read(20)
            assert frame is not None
            assert frame.surface.layout.width == 320


def test_one_whose_certificate_is_not_is_refused_in_one_line(url: str) -> None:
    with pytest.raises(SourceError) as caught:
        Source(url).open()
    place = url.partition("//")[2].partition("/")[0]
    assert caught.value.problem == (
        f"the certificate of the camera at {place} is not trusted (self-signed certificate)"
    )
    assert "export SSL_CERT_FILE=camera.pem" in caught.value.hint


def test_gstreamer_itself_verifies_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not the knock alone, after which another machine may answer."""
    monkeypatch.setattr("edge.sources.source.connection_error", lambda *_: None)
    with pytest.raises(SourceError, match="is not trusted"):
        Source(url).open()


@pytest.mark.parametrize("holds", [None, "no certificate"])
def test_a_file_of_certificates_that_is_none_is_named(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holds: str | None
) -> None:
    path = tmp_path / "camera.pem"
    if holds is not None:
        path.write_text(holds)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    with pytest.raises(SourceError, match=f"SSL_CERT_FILE is {path}, which holds no cert"):
        Source(url).open()
    plain = connection_error(resolve("rtsp://127.0.0.1:1/x"))
    assert plain is not None and "cannot be reached" in plain.problem, "which needs none"


def test_a_camera_that_speaks_no_tls_is_to_be_asked_without() -> None:
    with camera_of("320x240") as (plain, _):
        said = connection_error(resolve(plain.replace("rtsp", "rtsps")))
    assert said is not None
    assert "does not speak TLS" in said.problem
    assert said.hint == "write rtsp:// for rtsps://"


@pytest.mark.parametrize(
    ("uri", "asked"),
    [
        ("rtsps://cam", "rtsps://cam:322"),
        ("rtsps://joe:s3cret@cam/1", "rtsps://cam:322/1"),
        ("rtsps://[::1]/1", "rtsps://[::1]:322/1"),
        ("rtsps://cam:554/1?a=b:1", "rtsps://cam:554/1?a=b:1"),
        ("rtsps://cam?a=b:1", "rtsps://cam:322?a=b:1"),
    ],
)
def test_its_port_is_322_to_the_knock_and_to_gstreamer(uri: str, asked: str) -> None:
    """Which would take that of plain RTSP."""
    assert f'location="{asked}"' in pipeline(Camera(uri), platform="pc")
    assert address_of(uri) == address_of(asked)


def test_it_comes_over_tcp_only() -> None:
    check_source("rtsps://cam/1")
    with pytest.raises(SourceError, match="TCP only; omit: --transport udp"):
        pipeline(Camera("rtsps://cam/1", transport="udp"), platform="pc")
