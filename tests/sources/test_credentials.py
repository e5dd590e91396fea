"""Variables and the credentials file: what opens a source, and shows nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge.errors import SourceError
from edge.sources.camera import Camera
from edge.sources.credentials import CREDENTIALS, Access, resolve
from edge.sources.diagnostics import explain
from edge.sources.launch import launch
from edge.sources.pipelines import launch_line


def netrc(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "credentials"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_login_is_taken_out_of_the_address() -> None:
    access = resolve("rtsp://joe:a%40b%2Fc:d@cam:554/s?x=1@2")
    assert (access.user, access.password) == ("joe", "a@b/c:d")
    assert access.uri == "rtsp://cam:554/s?x=1@2"
    assert access.name == "rtsp://***@2", "when in doubt a name hides too much"
    assert resolve("http://joe@cam/").user == "joe"


def test_variables_are_replaced_as_they_are() -> None:
    """No character of a password needs an escape: the URI is taken apart before."""
    environ = {"WHO": "jo%40e", "PASSWORD": "p:@/?#%41&\"' \\ü", "HOST": "cam:8554", "N": "2"}
    access = resolve("rtsp://${WHO}:${PASSWORD}@${HOST}/live/${N}", environ=environ)
    assert (access.user, access.password) == ("jo%40e", environ["PASSWORD"])
    assert access.uri == "rtsp://cam:8554/live/2"
    assert access.template == "rtsp://${HOST}/live/${N}"
    assert access.name == "rtsp://***@${HOST}/live/${N}"


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("/dev/video${N}", "/dev/video2"),
        ("csi://${N}?fps=${N}", "csi://2?fps=2"),
        ("${CAMERA}", "rtsp://cam/s"),
        ("http://cam/?token=${TOKEN}", "http://cam/?token=a/b"),
        ("gst:x location=${TOKEN} ! y", "gst:x location=a/b ! y"),
        ("gst:x user-pw=${TRICKY} ! y", r"gst:x user-pw=a\ \!\ \'b ! y"),
        ("http://cam/$HOME/${}/${a-b}", "http://cam/$HOME/${}/${a-b}"),
    ],
)
def test_variables_anywhere(text: str, uri: str) -> None:
    environ = {"N": "2", "CAMERA": "rtsp://joe:pw@cam/s", "TOKEN": "a/b", "TRICKY": "a ! 'b"}
    assert resolve(text, environ=environ).uri == uri


def test_a_path_may_be_a_variable(tmp_path: Path) -> None:
    (film := tmp_path / "100% ${a}.mp4").touch()
    environ = {"FOLDER": str(tmp_path), "FILM": film.name}
    assert resolve("${FOLDER}/${FILM}", environ=environ).uri == film.as_uri()
    assert resolve("file://${FOLDER}/${FILM}", environ=environ).uri == film.as_uri()
    assert resolve(str(film), environ={}).uri == film.as_uri(), (
        "a file that is there is no variable"
    )


def test_a_whole_source_may_be_a_variable() -> None:
    access = resolve("${CAMERA}", environ={"CAMERA": "rtsp://joe:p%40w@cam/s"})
    assert (access.user, access.password, access.name) == ("joe", "p@w", "${CAMERA}")


@pytest.mark.parametrize("text", ["RTSP://joe:pw@cam/S", "${CAMERA}"])
def test_a_scheme_in_capitals_is_the_same(text: str) -> None:
    access = resolve(text, environ={"CAMERA": "RTSP://joe:pw@cam/S"})
    assert (access.uri, access.user, access.password) == ("rtsp://cam/S", "joe", "pw")


def test_a_variable_that_is_not_set() -> None:
    said = r"rtsp://\*\*\*@h needs the variable PASSWORD, which is not set; run: export PASSWORD="
    with pytest.raises(SourceError, match=said):
        resolve("rtsp://joe:${PASSWORD}@h", environ={})


@pytest.mark.parametrize("value", ['a"b', "a\\b", "a\nb"])
def test_what_a_pipeline_of_the_users_own_cannot_take(value: str) -> None:
    with pytest.raises(SourceError, match="the variable PW holds a quote") as caught:
        resolve("gst:x user-pw=${PW}", environ={"PW": value})
    assert value not in str(caught.value)


plain = st.text(st.characters(codec="utf-8", exclude_characters='\0"\\\n*'), min_size=1)


@pytest.mark.parametrize("form", ["user-pw=${PW}", 'user-pw="${PW}"'])
@given(value=plain.filter(lambda text: text != "NULL"))  # which GStreamer takes for no text
@example(value="a ! fakesink name=x")
@example(value="'")
def test_no_variable_breaks_out_of_a_pipeline(form: str, value: str) -> None:
    access = resolve(f'gst:souphttpsrc name=c {form} user-agent="x"', environ={"PW": value})
    built = launch(Camera("x"), access, platform="pc")
    assert built.get_by_name("c").get_property("user-pw") == value
    assert built.get_by_name("c").get_property("user-agent") == "x"


def test_the_credentials_file_is_read_by_host(tmp_path: Path) -> None:
    path = netrc(
        tmp_path,
        "machine cam login joe password s3cret\nmachine 10.0.0.2\n  login ann\n  password p:@/x\n",
    )
    environ = {CREDENTIALS: str(path), "HOST": "cam"}

    def login(uri: str) -> tuple[str, str]:
        access = resolve(uri, environ=environ)
        return access.user, access.password

    assert login("rtsp://cam:8554/s") == ("joe", "s3cret")
    assert login("http://${HOST}/video") == ("joe", "s3cret")
    assert login("https://10.0.0.2/") == ("ann", "p:@/x")
    assert login("rtsp://other/") == ("", "")
    assert login("rtsp://own:pw@cam/") == ("own", "pw"), "what is typed wins"
    assert resolve("rtsp://cam/", environ={}).user == ""
    assert resolve("rtsp://cam/", environ={}, credentials=path).user == "joe"
    assert resolve("rtsp://cam/", environ=environ).name == "rtsp://cam/"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o602])
def test_credentials_that_others_may_read_are_refused(mode: int, tmp_path: Path) -> None:
    path = netrc(tmp_path, "machine cam login joe password s3cret\n", mode)
    with pytest.raises(SourceError, match=f"other users may read it; run: chmod 600 '{path}'"):
        resolve("rtsp://cam/", environ={CREDENTIALS: str(path)})


def test_credentials_from_systemd_bear_the_mask_of_their_access_list(tmp_path: Path) -> None:
    """systemd 254 and later lets the service's user in by a list: the mode is 0440 then."""
    (ours := tmp_path / "credentials").mkdir()
    (shortcut := tmp_path / "shortcut").symlink_to(ours)
    path = netrc(ours, "machine cam login joe password s3cret\n", 0o440)
    for folder, file in ((ours, path), (shortcut, path), (ours, shortcut / path.name)):
        environ = {CREDENTIALS: str(file), "CREDENTIALS_DIRECTORY": str(folder)}
        assert resolve("rtsp://cam/", environ=environ).password == "s3cret"
    path.chmod(0o444)
    with pytest.raises(SourceError, match="other users may read it"):
        resolve("rtsp://cam/", environ=environ)


def test_what_is_not_in_systemds_folder_is_for_its_user_alone(tmp_path: Path) -> None:
    (ours := tmp_path / "ours").mkdir()
    (ours / "deeper").mkdir()
    path = netrc(tmp_path, "machine cam login joe password s3cret\n", 0o440)
    inner = netrc(ours / "deeper", path.read_text(), 0o440)
    (link := ours / "link").symlink_to(path)
    for file in (path, ours / ".." / path.name, link, inner):
        environ = {CREDENTIALS: str(file), "CREDENTIALS_DIRECTORY": str(ours)}
        with pytest.raises(SourceError, match="other users may read it"):
            resolve("rtsp://cam/", environ=environ)


def test_credentials_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nothing cannot be read .*, or use another$"):
        resolve("rtsp://cam/", credentials=tmp_path / "nothing")
    with pytest.raises(SourceError, match=r"nothing cannot be read .*, or unset EDGE_CREDENTIALS$"):
        resolve("rtsp://cam/", environ={CREDENTIALS: str(tmp_path / "nothing")})
    with pytest.raises(SourceError, match=r"in ~no-such-user/netrc cannot be read \(No such file"):
        resolve("rtsp://cam/", credentials="~no-such-user/netrc")
    path = netrc(tmp_path, "\nmachine cam login joe password two s3cret\n")
    with pytest.raises(SourceError, match=r"line \d of the credentials in .* machine HOST") as told:
        resolve("rtsp://cam/", credentials=path)
    assert "a password with a space, need Python 3.11" in str(told.value), "3.10 knows no quotes"
    assert "s3cret" not in str(told.value)
    assert told.value.__suppress_context__
    path.write_bytes(b"machine cam login joe password \xff\xfe\n")
    with pytest.raises(SourceError, match="cannot be read"):
        resolve("rtsp://cam/", credentials=path)


# What an error says whatever the password is, so that it may be a part of it.
TOLD = (
    "could not set location to http rtsp://cam:554/live gst:souphttpsrc name user-pw no variable "
    "the stream of the camera at was interrupted test the camera alone with the pipeline that "
    "edge run --dry-run prints fails gst-launch-1.0 -v fakesink SourceError"
)
FORMS = [
    "rtsp://joe:${PW}@cam/live",
    "http://joe:${PW}@cam/live?token=${PW}",
    "http://cam/live?x=${PW}",
    "gst:souphttpsrc name=c user-pw=${PW}",
]


@pytest.mark.parametrize("form", FORMS)
@given(password=plain)
@example(password="a/b?c#d@e")
@example(password=" ! & ' ")
def test_what_is_shown_of_a_source_is_the_same_whatever_its_password(
    form: str, password: str
) -> None:
    def shown(value: str) -> tuple[str, ...]:
        access = resolve(form, environ={"PW": value})
        line = launch_line(Camera(form), access, platform="pc")
        return repr(access), access.name, access.camera, line

    assert shown(password) == shown("hunter2")


@pytest.mark.parametrize("form", FORMS)
@given(password=plain.filter(lambda text: len(text) > 3 and text not in TOLD))
@example(password="a/b?c#d@e")
@example(password=" ! & ' ")
def test_no_error_tells_a_password(form: str, password: str) -> None:
    """Not even when GStreamer repeats the address, or a property's value."""
    from gi.repository import GLib

    access = resolve(form, environ={"PW": password})
    for message in (f'could not set "location" to "{access.uri}"', f"no {password}", access.uri):
        error = GLib.Error(message, "gst-stream-error-quark", 1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("edge.sources.diagnostics.connection_error", lambda _: None)
            told = explain(access, error)
        assert password not in access.redact(message)
        assert password not in repr(told)


def test_an_error_raised_where_secrets_are_at_hand_hides_them() -> None:
    access = Access("x", "x", "x", secrets=("a", "abc", ""))
    with pytest.raises(SourceError) as caught, access.redacting():
        raise SourceError("no abc", "write rtsp://joe:pw@h")
    assert str(caught.value) == "no ***; write rtsp://***@h"
    assert caught.value.__cause__ is None
