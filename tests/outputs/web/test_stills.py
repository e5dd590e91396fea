"""Stills: frames are encoded only while there is a viewer, and are released immediately."""

from __future__ import annotations

import io
import itertools
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge.errors import SourceError
from edge.outputs.web import stills as stills_module
from edge.outputs.web.stills import Still, Stills
from edge.preprocess.surface import DeviceSurface, Layout, Surface
from edge.sources.frame import Frame

PATIENCE = 30.0  # seconds: the machine may be busy with other tests


class Buffer:
    """Represents a camera's buffer: each frame holds a reference to it."""


def frame(source: str = "camera", size: tuple[int, int] = (24, 32), owner: object = None) -> Frame:
    pixels = np.full((*size, 3), 200, np.uint8)
    return Frame(source, 0, None, 0.0, "system", Surface.from_rgb(pixels), owner)


@pytest.fixture
def stills(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stills]:
    monkeypatch.setattr(stills_module, "MIN_INTERVAL", 0.0)
    still = Stills()
    yield still
    still.close()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Blocks the encoder until the event is set."""
    opened = threading.Event()
    encode = stills_module._encode

    def wait(frame: Frame) -> Any:
        assert opened.wait(PATIENCE)
        return encode(frame)

    monkeypatch.setattr(stills_module, "_encode", wait)
    yield opened
    opened.set()


def until(found: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return value


def encoded(stills: Stills, frame: Frame) -> Still:
    before = stills.newest(frame.source)
    stills.put(frame, {})
    return until(lambda: (new := stills.newest(frame.source)) is not before and new)


def test_frames_are_wanted_often_only_while_there_is_a_viewer(stills, monkeypatch):
    """The first one is wanted in any case: a page may be opened when the camera is off."""
    monkeypatch.setattr(stills_module, "MIN_INTERVAL", 0.0)
    monkeypatch.setattr(stills_module, "UNSEEN_INTERVAL", PATIENCE)
    assert stills.wants("camera")
    stills.put(frame(), {})
    assert not stills.wants("camera")
    stills.newest("camera")
    assert stills.wants("camera")
    monkeypatch.setattr(stills_module, "VIEWER_TIMEOUT", 0.0)
    assert not stills.wants("camera")
    monkeypatch.setattr(stills_module, "UNSEEN_INTERVAL", 0.0)
    assert stills.wants("camera")


def test_frames_of_a_source_are_wanted_only_after_the_minimum_interval(stills, monkeypatch):
    monkeypatch.setattr(stills_module, "MIN_INTERVAL", PATIENCE)
    for source in ("camera", "another"):
        stills.newest(source)
    stills.put(frame(), {})
    assert not stills.wants("camera")
    assert stills.wants("another")


@pytest.mark.parametrize(
    ("size", "expected"),
    [((24, 32), (32, 24)), ((1080, 1920), (960, 540)), ((3000, 1000), (320, 960))],
)
def test_an_image_is_a_jpeg_of_limited_size(stills, size, expected):
    still = encoded(stills, frame(size=size))
    with Image.open(io.BytesIO(still.jpeg)) as picture:
        assert (picture.format, picture.size) == ("JPEG", expected)
        assert abs(np.asarray(picture).mean() - 200) < 3
    assert still.problem == ""


def test_each_image_has_an_increasing_number_and_its_data(stills):
    first = encoded(stills, frame())
    stills.put(frame(), {"top": "label"})
    second = until(lambda: (new := stills.newest("camera")) is not first and new)
    assert second.about == {"top": "label"}
    assert second.number > first.number


def test_put_never_blocks_and_only_the_newest_frame_is_held(stills, gate):
    buffers = []
    for _ in range(50):  # while the encoder is blocked
        owner = Buffer()
        buffers.append(weakref.ref(owner))
        stills.put(frame(owner=owner), {})
        del owner
    assert sum(buffer() is not None for buffer in buffers) <= 2, "one waits, one is being encoded"
    assert buffers[-1]() is not None
    gate.set()
    until(lambda: all(buffer() is None for buffer in buffers))
    assert stills.newest("camera") is not None


def test_sources_take_turns(stills, gate):
    for source in ("a", "b", "c"):
        stills.put(frame(source), {})
    for _ in range(20):
        stills.put(frame("a"), {})
    gate.set()
    until(lambda: all(stills.newest(source) for source in "abc"))


def test_a_frame_that_cannot_be_downloaded_is_reported_and_the_next_is_tried(stills):
    class Reader:
        def download(self, surface: DeviceSurface) -> Surface:
            raise SourceError("it stays in the GPU's memory", "look elsewhere")

    surface = DeviceSurface(Layout("NV12", 32, 24), (0, 0), (32, 32))
    still = encoded(stills, Frame("camera", 0, None, 0.0, "cuda", surface, reader=Reader()))
    assert still.jpeg == b""
    assert still.problem == "it stays in the GPU's memory; look elsewhere"
    assert encoded(stills, frame()).problem == ""


def test_the_encoder_takes_half_a_core_at_most(stills, monkeypatch):
    spans = []

    def slow(_: Frame) -> tuple[bytes, str]:
        began = time.monotonic()
        time.sleep(0.1)
        spans.append((began, time.monotonic()))
        return b"", ""

    monkeypatch.setattr(stills_module, "_encode", slow)
    for source in "abcd":
        stills.put(frame(source), {})
    until(lambda: len(spans) == 4)
    for (began, ended), (after, _) in itertools.pairwise(spans):
        assert after - ended >= 0.9 * (ended - began)


def test_close_releases_all_frames_and_ends_the_thread(stills, gate):
    owners = [Buffer() for _ in range(2)]
    waiting = weakref.ref(owners[1])
    stills.put(frame("a", owner=owners[0]), {})
    stills.put(frame("b", owner=owners[1]), {})
    del owners
    gate.set()
    stills.close()
    assert not stills._thread.is_alive()
    assert waiting() is None
