"""URIs: what a person types is read and checked, and passwords hide."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge.errors import SourceError
from edge.sources.uris import (
    address_of,
    as_uri,
    check,
    contains_password,
    is_live,
    options_of,
    redact,
    redact_address,
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
    ("uri", "shown"),
    [
        ("rtsp://user:secret@cam:554/s", "rtsp://***@cam:554/s"),
        ("rtsp://secret@cam/s", "rtsp://***@cam/s"),
        ("rtsp://user:se@cret@cam/s", "rtsp://***@cam/s"),
        ("rtsp://user:se/cret@cam/s", "rtsp://***@cam/s"),
        ('rtsp://user:se cr"et@cam/s', "rtsp://***@cam/s"),
        ("rtsp://cam/live@2", "rtsp://cam/live@2"),
        ("rtsp://[fe80::1]/live@2", "rtsp://[fe80::1]/live@2"),
        ("rtsp://cam:554/live@2", "rtsp://***@2"),
        ("rtsp://cam/s?user=a&password=secret&c=1", "rtsp://cam/s?user=a&password=***&c=1"),
        ("http://user:secret@cam/s", "http://***@cam/s"),
        ("gst:src location=rtsp://u:secret@h/s ! x", "gst:src location=rtsp://***@h/s ! x"),
        ('gst:src user-id=secret user-pw="sec ret" ! x', "gst:src user-id=*** user-pw=*** ! x"),
        ('gst:src location="rtsp://u:a ! b@h/s" ! x@y', 'gst:src location="rtsp://***@h/s" ! x@y'),
        ("rtsp://cam/user=a_password=secret_channel=1", "rtsp://cam/user=a_password=***"),
        ("http://cam/?loginpas=secret", "http://cam/?loginpas=***"),
        ("rtsp://${USER}:${PASSWORD}@cam/${PATH}", "rtsp://***@cam/${PATH}"),
        ("file:///videos/password=1@home.mp4", "file:///videos/password=1@home.mp4"),
        ("test://ball", "test://ball"),
        ("/dev/video0", "/dev/video0"),
    ],
)
def test_redact(uri: str, shown: str) -> None:
    assert redact(uri) == shown


@pytest.mark.parametrize(
    "query",
    [
        *("pw={}", "pwd={}", "psw={}", "psd={}", "pswd={}", "pword={}", "passwd={}", "loginpas={}"),
        *(
            "pin={}",
            "device_pin={}",
            "cred={}",
            "credentials={}",
            "sid={}",
            "PHPSESSID={}",
            "_sid={}",
        ),
        *("code={}", "accesscode={}", "verify-code={}", "PassCode={}", "u=joe&p={}", "p={}&u=joe"),
        *("c=1&u=joe&n=2&p={}", "P={}&c=1&U=joe", "apikey={}", "sig={}", "authcode={}"),
    ],
)
def test_keys_whose_values_are_secret(query: str) -> None:
    for form in ("http://cam/v?{}", "http://cam/v?c=1&{}&d=2", "gst:x location={} ! y"):
        uri = form.format(query if "?" in form else f"http://cam/v?{query}")
        told, hidden, variable = (uri.format(word) for word in ("hunter2", "***", "${PW}"))
        assert redact(told) == hidden
        assert contains_password(told)
        assert not contains_password(variable)


@pytest.mark.parametrize(
    "uri",
    [
        "http://cam/v?p=2",
        "http://cam/v?p=2&user=joe",
        "http://cam/v?page=2&u=joe",
        "http://cam/v?encode=h264&transcode=1&decode=0&codec=h264",
        "http://cam/v?resolution=640x480&fps=30&channel=1&subtype=0&side=left&user=joe",
        "gst:videotestsrc pattern=ball ! x264enc speed-preset=superfast ! fakesink sync=false",
    ],
)
def test_keys_whose_values_are_no_secrets(uri: str) -> None:
    assert redact(uri) == uri
    assert not contains_password(uri)


@given(st.text(min_size=4).filter(lambda text: text not in "rtsp://***@ham/ham"))
@example("a/b?c#d@e")
@example("//12:34@[::1]:5/")
def test_no_password_is_ever_shown(password: str) -> None:
    assert password not in redact(f"rtsp://u:{password}@ham/ham")


@pytest.mark.parametrize(
    "form", ['user-pw="{}"', "user-pw='{}'", 'user-pw = "{}"', "p password={}"]
)
@given(password=st.text(min_size=4).filter(lambda text: text not in "videotestsrc user-pw=*** ! x"))
@example(password='a " ! b')
@example(password="a ! b")
def test_no_password_in_a_pipeline_is_ever_shown(form: str, password: str) -> None:
    quote = {'"': r'"\\', "'": r"'\\"}.get(form[-1], "")
    if not quote:  # without quotes, what is special needs a backslash
        quoted = re.sub(r"(\W)", r"\\\1", password)
    else:
        quoted = re.sub(f"([{quote}])", r"\\\1", password)
    shown = redact(f"gst:videotestsrc {form.format(quoted)} ! x")
    assert quoted not in shown
    assert password not in shown


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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("joe:pw@host/x", "***@host/x"),
        ("joe:a@b@host", "***@host"),
        ("token@host", "***@host"),
        ("mqtt:joe:pw@host", "***@host"),
        ("mqtt://joe:pw@host/x", "mqtt://***@host/x"),
        ("host:1883", "host:1883"),
    ],
)
def test_what_is_no_address_may_hold_a_password_too(text: str, shown: str) -> None:
    assert redact_address(text) == shown


@pytest.mark.parametrize(
    ("uri", "tells"),
    [
        ("rtsp://joe:pw@cam/x", True),
        ("mqtt://joe:pw@host", True),
        ("rtsp://${WHO}:pw@cam", True),
        ("http://cam/?token=abc", True),
        ("gst:rtspsrc location=rtsp://joe:pw@cam ! decodebin", True),
        ('gst:souphttpsrc user-pw="pw" ! decodebin', True),
        ("rtsp://joe:${PW}@cam/x", False),
        ("rtsp://joe@cam/x", False),
        ("rtsp://cam:554/live@2", False),
        ("http://cam/?token=${TOKEN}", False),
        ('gst:souphttpsrc user-pw="${PW}" ! decodebin', False),
        ("gst:souphttpsrc user-pw=${PW} ! decodebin", False),
        ("${CAMERA}", False),
        ("rtsp://:8554/live", False),
        ("film.mkv", False),
    ],
)
def test_a_password_in_a_variable_is_not_told(uri: str, tells: bool) -> None:
    assert contains_password(uri) is tells
