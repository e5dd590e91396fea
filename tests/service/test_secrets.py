"""A secret in a source that a person types never leaves: not in a name, an error or a dry run."""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge.engine.passport import Passport
from edge.errors import EdgeError
from edge.service import config, keys
from edge.sources.camera import Camera, with_unique_names
from edge.sources.credentials import resolve
from edge.sources.pipelines import check_source, launch_line
from edge.sources.uris import as_uri, check

# The secret is {}. After a host with a port, a '@' may end a login or be a part of a password.
LOGINS = [
    "rtsp://joe:{}@cam:554/live",
    "RTSP://joe:{}@cam/live?x=1@2",
    "rtsp://{}:pw@192.168.1.10/live",
    "https://joe:pw{}@[::1]:8443/v",
    "mqtt://joe:{}@broker/prefix",
    "http://proxy/?url=rtsp://joe:{}@cam/s",
    "http://192.168.1.10/rtsp://joe:{}@cam/s",
    # Mistyped:
    "rtsp:joe:{}@cam/live",
    "rtsp:/joe:{}@cam/live",
    "rtsp:///joe:{}@cam/live",
    "rtsp//joe:{}@cam/live",
    " rtsp://joe:{}@cam/live",
    "source=rtsp://joe:{}@cam/live",
    "joe:{}@cam/live",
    "joe:{}@cam:8080",
    "joe:{}@cam/?next=http://cam/",
    "file://joe:{}@cam/film.mp4",
    "v4l2://joe:{}@cam",
    "csi://joe:{}@0",
    "test://joe:{}@ball",
    "test://ball?width=rtsp://joe:{}@cam",
    'gst:rtspsrc location="rtsp://joe:{}@cam/s" ! decodebin',
]
VALUES = [
    "rtsp://192.168.1.10:554/user=admin&password={}&channel=1",
    "rtsp://cam:554/user=admin&password={}&channel=1",
    "rtsp://cam/user=admin_password={}_channel=1",
    "rtsp://[fe80::1]:554/live?a=1&pwd={}&b=2",
    "http://cam/v?token={}",
    "http://cam:80/v?u=joe&p={}&c=1",
    "http://cam/v?loginuse=joe&loginpas={}",
    "rtsp:192.168.1.10:554/user=admin&password={}&channel=1",
    "192.168.1.10/user=admin&password={}",
    'gst:souphttpsrc user-pw="{}" ! decodebin',
]
ENCODED = [
    "rtsp://joe:{}%40cam/live",
    "rtsp://joe%3A{}%40cam/live",
    "http://proxy/?url=rtsp%3A%2F%2Fjoe%3A{}%40cam/s",
    "rtsp://admin:{}/live",
]
PUNCTUATION = "!#$%'()*+,-./:;<=>?@[]^_`{|}~ "
MARKS = ("x9Q", "Kv5", "Zk7")  # of which none may be shown: nor a part of the secret
PLAIN = st.text(string.ascii_letters + string.digits + "-_.~", max_size=6)
VALUE = st.text(string.ascii_letters + string.digits + PUNCTUATION, max_size=9)
ANY = st.text(string.ascii_letters + string.digits + PUNCTUATION + "&", max_size=9)


Show = Callable[[str, Path], Iterator[str]]


def shown_of_source(text: str, _: Path) -> Iterator[str]:
    """What is shown of a source, and what the errors about it say."""
    yield with_unique_names([Camera(text)])[0].name
    for step in (as_uri, check_source, check, lambda text: Passport.read(Path(text))):
        yield from error_of(lambda step=step: step(text))
    with suppress(EdgeError):
        access = resolve(text, environ={})
        yield f"{access.name} {access.camera} {access!r}"
        yield launch_line(Camera(text), access, platform="pc")
    yield from error_of(lambda: resolve(text, environ={}))


def shown_of_settings(text: str, folder: Path) -> Iterator[str]:
    """What the errors say if it is typed under any key, or option of the command line."""
    path, typed = folder / "run.toml", json.dumps(text)

    def load(text: str) -> Iterator[str]:
        path.write_text(text)
        return error_of(lambda: config.load(path))

    for name, key in {**keys.RUN, **keys.CAMERA}.items():
        header = "[[camera]]\n" if name in keys.CAMERA else ""
        for value in (typed, f"[{typed}]", f"{{{typed} = 1}}"):
            yield from load(f"{header}{name} = {value}\n")
        value = Path(text) if key.kind is Path else text
        yield from error_of(lambda name=name, value=value: keys.check_value(name, value))
    yield from load(f"{typed} = 1\n")
    yield from load(2 * f"[[camera]]\nsource = {typed}\n")
    rule = json.dumps(f"source={text}")
    yield from load(f'on = [{rule}]\nsnapshots = "x"\n[[camera]]\nsource = "test://ball"\n')


def error_of(step: Callable[[], object]) -> Iterator[str]:
    try:
        step()
    except EdgeError as error:
        yield str(error)


def check_nothing_leaves(form: str, parts: tuple[str, str], show: Show, folder: Path) -> None:
    secret = parts[0].join(MARKS[:2]) + parts[1] + MARKS[2]
    for shown in show(form.replace("{}", secret), folder):
        assert not any(mark in shown for mark in MARKS), shown


@pytest.mark.parametrize("form", LOGINS)
@given(parts=st.tuples(ANY, ANY))
@example(parts=("@", "/"))
@example(parts=("?password=", "&"))
@example(parts=("://a/", "@b:"))
def test_no_login_of_a_source_is_shown(form: str, parts: tuple[str, str]) -> None:
    check_nothing_leaves(form, parts, shown_of_source, Path())


@pytest.mark.parametrize("form", VALUES)
@given(parts=st.tuples(VALUE, VALUE))
@example(parts=("@", "/"))
@example(parts=("", "@ss"))
def test_no_value_of_a_key_in_a_source_is_shown(form: str, parts: tuple[str, str]) -> None:
    check_nothing_leaves(form, parts, shown_of_source, Path())


@pytest.mark.parametrize("form", ENCODED)
@given(parts=st.tuples(PLAIN, PLAIN))
def test_no_encoded_login_of_a_source_is_shown(form: str, parts: tuple[str, str]) -> None:
    check_nothing_leaves(form, parts, shown_of_source, Path())


@pytest.mark.parametrize("parts", [("", ""), ("@", ":")])
@pytest.mark.parametrize("form", [*LOGINS, *VALUES])
def test_no_error_about_a_setting_shows_a_secret(
    form: str, parts: tuple[str, str], tmp_path: Path
) -> None:
    check_nothing_leaves(form, parts, shown_of_settings, tmp_path)
