"""Pictures for browsers: made only while somebody looks, and no frame is kept longer than that."""

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
from edge.outputs.web import stills as web_pictures
from edge.outputs.web.stills import Picture, Pictures
from edge.preprocess.surface import DeviceSurface, Layout, Surface
from edge.sources.frame import Frame

PATIENCE = 30.0  # seconds: the machine may be busy with other tests


class Buffer:
    """Stands for a camera's buffer: whoever holds a frame holds it."""


def frame(source: str = "camera", size: tuple[int, int] = (24, 32), owner: object = None) -> Frame:
    pixels = np.full((*size, 3), 200, np.uint8)
    return Frame(source, 0, None, 0.0, "system", Surface.from_rgb(pixels), owner)


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pictures]:
    monkeypatch.setattr(web_pictures, "GAP", 0.0)
    made = Pictures()
    yield made
    made.close()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Holds the encoder back until it is set."""
    opened = threading.Event()
    encode = web_pictures._encode

    def wait(frame: Frame) -> Any:
        assert opened.wait(PATIENCE)
        return encode(frame)

    monkeypatch.setattr(web_pictures, "_encode", wait)
    yield opened
    opened.set()


def until(found: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return value


def made_of(pictures: Pictures, frame: Frame) -> Picture:
    before = pictures.newest(frame.source)
    pictures.put(frame, {})
    return until(lambda: (new := pictures.newest(frame.source)) is not before and new)


def test_nothing_is_wanted_until_somebody_looks_and_after_he_has_gone(pictures, monkeypatch):
    assert not pictures.wants("camera")
    assert pictures.newest("camera") is None
    assert pictures.wants("camera")
    assert not pictures.wants("another")
    monkeypatch.setattr(web_pictures, "LOOKING", 0.0)
    assert not pictures.wants("camera")


def test_a_source_is_not_encoded_oftener_than_the_eye_needs(pictures, monkeypatch):
    monkeypatch.setattr(web_pictures, "GAP", PATIENCE)
    for source in ("camera", "another"):
        pictures.newest(source)
    pictures.put(frame(), {})
    assert not pictures.wants("camera")
    assert pictures.wants("another")


@pytest.mark.parametrize(
    ("size", "expected"),
    [((24, 32), (32, 24)), ((1080, 1920), (960, 540)), ((3000, 1000), (320, 960))],
)
def test_a_picture_is_a_jpeg_no_larger_than_a_page_shows(pictures, size, expected):
    made = made_of(pictures, frame(size=size))
    with Image.open(io.BytesIO(made.jpeg)) as picture:
        assert (picture.format, picture.size) == ("JPEG", expected)
        assert abs(np.asarray(picture).mean() - 200) < 3
    assert made.problem == ""


def test_each_picture_has_a_number_and_keeps_what_came_with_it(pictures):
    first = made_of(pictures, frame())
    pictures.put(frame(), {"top": "label"})
    second = until(lambda: (new := pictures.newest("camera")) is not first and new)
    assert second.about == {"top": "label"}
    assert second.number > first.number


def test_the_loop_never_waits_and_only_the_newest_frame_is_kept(pictures, gate):
    buffers = []
    for _ in range(50):  # while the encoder is stuck
        owner = Buffer()
        buffers.append(weakref.ref(owner))
        pictures.put(frame(owner=owner), {})
        del owner
    assert sum(buffer() is not None for buffer in buffers) <= 2, "one waits, one is being encoded"
    assert buffers[-1]() is not None
    gate.set()
    until(lambda: all(buffer() is None for buffer in buffers))
    assert pictures.newest("camera") is not None


def test_no_source_takes_the_turn_of_another(pictures, gate):
    for source in ("a", "b", "c"):
        pictures.put(frame(source), {})
    for _ in range(20):
        pictures.put(frame("a"), {})
    gate.set()
    until(lambda: all(pictures.newest(source) for source in "abc"))


def test_a_picture_that_cannot_leave_the_gpu_is_told_and_the_next_is_tried(pictures):
    class Reader:
        def download(self, surface: DeviceSurface) -> Surface:
            raise SourceError("it stays in the GPU's memory", "look elsewhere")

    surface = DeviceSurface(Layout("NV12", 32, 24), (0, 0), (32, 32))
    made = made_of(pictures, Frame("camera", 0, None, 0.0, "cuda", surface, reader=Reader()))
    assert made.jpeg == b""
    assert made.problem == "it stays in the GPU's memory; look elsewhere"
    assert made_of(pictures, frame()).problem == ""


def test_the_encoder_takes_half_a_core_at_most(pictures, monkeypatch):
    spans = []

    def slow(_: Frame) -> tuple[bytes, str]:
        began = time.monotonic()
        time.sleep(0.1)
        spans.append((began, time.monotonic()))
        return b"", ""

    monkeypatch.setattr(web_pictures, "_encode", slow)
    for source in "abcd":
        pictures.put(frame(source), {})
    until(lambda: len(spans) == 4)
    for (began, ended), (after, _) in itertools.pairwise(spans):
        assert after - ended >= 0.9 * (ended - began)


def test_closing_lets_go_of_every_frame_and_ends_the_thread(pictures, gate):
    owners = [Buffer() for _ in range(2)]
    waiting = weakref.ref(owners[1])
    pictures.put(frame("a", owner=owners[0]), {})
    pictures.put(frame("b", owner=owners[1]), {})
    del owners
    gate.set()
    pictures.close()
    assert not pictures._thread.is_alive()
    assert waiting() is None
