"""URIs: what a person types is read and checked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge.errors import SourceError
from edge.sources.uris import (
    address_of,
    as_uri,
    check,
    is_live,
    options_of,
    split_login,
)


def test_a_path_becomes_a_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.mp4", "100% sure!.mp4", "%41.mp4"):
        (tmp_path / name).touch()
        assert as_uri(name) == (tmp_path / name).as_uri()
        assert as_uri(f"file://{tmp_path}/{name}") == (tmp_path / name).as_uri()
        assert as_uri((tmp_path / name).as_uri()) == (tmp_path / name).as_uri()


@pytest.mark.parametrize(
    "uri",
    ["test://ball", "/dev/video0?fps=9", "rtsp://h/x", "gst:videotestsrc", "http://h", "${CAMERA}"],
)
def test_a_uri_stays(uri: str) -> None:
    assert as_uri(uri) == uri


@pytest.mark.parametrize(
    ("typed", "uri"),
    [
        ("RTSP://Joe:PW@Cam/Live", "rtsp://Joe:PW@Cam/Live"),
        ("Http://cam/V?A=1", "http://cam/V?A=1"),
        ("CSI://0", "csi://0"),
        ("GST:videotestsrc name=A", "gst:videotestsrc name=A"),
    ],
)
def test_a_scheme_in_capitals_is_the_same(typed: str, uri: str) -> None:
    assert as_uri(typed) == uri


def test_a_path_where_nothing_is(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is no file"):
        as_uri(str(tmp_path / "nothing.mp4"))
    with pytest.raises(SourceError, match="there is no file"):
        check((tmp_path / "nothing.mp4").as_uri())


def test_a_number_is_a_camera_to_others() -> None:
    with pytest.raises(SourceError, match="no file 2; for a USB camera write /dev/video2"):
        as_uri("2")


def test_a_name_almost_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "camera.mp4").touch()
    monkeypatch.chdir(tmp_path)
    for typed in ("camra.mp4", f"{tmp_path}/camera.mkv"):
        with pytest.raises(SourceError, match=rf"did you mean {tmp_path}/camera.mp4\?"):
            as_uri(typed)
    with pytest.raises(SourceError, match=rf"did you mean {tmp_path}/camera.mp4\?"):
        check(f"file://{tmp_path}/camera.mp3")


def test_a_path_that_no_file_can_have() -> None:
    with pytest.raises(SourceError, match=r"there is no file ~no-such-user/film\.mp4; give a"):
        as_uri("~no-such-user/film.mp4")
    assert as_uri("~${NAME}/film.mp4") == "~${NAME}/film.mp4"
    with pytest.raises(SourceError, match="there is no file"):
        as_uri("~\0/film.mp4")
    for text in ("x" * 300, f"file:///{'x' * 300}"):
        with pytest.raises(SourceError, match=rf"^{text} cannot be accessed \(File name too lo"):
            as_uri(text)
    with pytest.raises(SourceError, match=r"cannot be accessed \(File name too long\)"):
        check(f"file:///{'x' * 300}")


def test_a_folder_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is not a file"):
        check(tmp_path.as_uri())


def test_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match="there is no camera /dev/video97"):
        check("/dev/video97")
    with pytest.raises(SourceError, match="there is no camera /dev/video97"):
        check("v4l2:///dev/video97?format=mjpg")
    with pytest.raises(SourceError, match="/dev/shm is not a camera"):
        check("/dev/shm")
    check("/dev/null")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(SourceError, match=r"no permission to open .*; run: sudo usermod -aG video"):
        check("/dev/null")
    video = tmp_path / "v.mp4"
    video.touch()
    with pytest.raises(SourceError, match="you have no permission to read"):
        check(video.as_uri())


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("rtsp://u:p@cam:1/x", ("cam", 1)),
        ("rtsp://cam", ("cam", 554)),
        ("rtsp://cam:5554/live@2", ("cam", 5554)),
        ("rtsp://[::1]:5/", ("::1", 5)),
        ("http://cam/x", ("cam", 80)),
        ("https://cam/x", ("cam", 443)),
        ("rtsp://cam:x/", None),
        ("http://", None),
        ("file:///x", None),
    ],
)
def test_the_address_of_a_camera(uri: str, address: tuple[str, int] | None) -> None:
    assert address_of(uri) == address


@pytest.mark.parametrize(
    ("uri", "login", "plain"),
    [
        ("rtsp://joe:a@b@cam/x@y?z@", "joe:a@b", "rtsp://cam/x@y?z@"),
        ("http://cam:80/x@y", "", "http://cam:80/x@y"),
        ("http://@cam", "", "http://cam"),
        ("http://joe@cam?x=/@", "joe", "http://cam?x=/@"),
    ],
)
def test_a_login_is_what_stands_before_the_host(uri: str, login: str, plain: str) -> None:
    assert split_login(uri) == (login, plain)


@pytest.mark.parametrize(
    ("uri", "live"),
    [
        ("rtsp://h/film.mp4", True),
        ("/dev/video0?fps=30", True),
        ("http://h/video.cgi", True),
        ("http://h/?action=stream&name=a.mp4", True),
        ("https://h/Film.MP4?download=1#start", False),
        ("http://h/live.m3u8", False),
        ("file:///a.mp4", False),
        ("gst:v4l2src", False),
    ],
)
def test_what_is_live(uri: str, live: bool) -> None:
    assert is_live(uri) is live


def test_what_is_asked_of_a_camera() -> None:
    assert options_of("csi://0?fps=60&width=9", ("width", "fps")) == (
        "csi://0",
        {"width": "9", "fps": "60"},
    )
    with pytest.raises(SourceError, match="has an unknown option 'widht'; use one of: width, fps"):
        options_of("csi://0?widht=9", ("width", "fps"))


def test_an_empty_source() -> None:
    with pytest.raises(SourceError, match="the source is empty; use one of: test://ball"):
        as_uri(" ")
