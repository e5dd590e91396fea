"""Buffers are seen as they pass, and nothing is left of it when a pipeline has gone."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge.sources import probes
from edge.sources.gst import gstreamer
from edge.sources.probes import Buffer, probe_buffers

SECOND = 10**9


class _Heap(ctypes.Structure):
    """struct mallinfo2 of glibc."""

    _fields_ = [(f"field {i}" if i != 7 else "used", ctypes.c_size_t) for i in range(10)]


def used() -> int:
    """Bytes that the C library has given out and not got back."""
    gc.collect()
    library = ctypes.CDLL(None)
    library.mallinfo2.restype = _Heap
    return int(library.mallinfo2().used)


@pytest.fixture
def play() -> Callable[[Callable[[Buffer], bool]], list[Any]]:
    """Runs five frames past a probe; what comes out behind it, as PyGObject sees it."""

    def call(see: Callable[[Buffer], bool]) -> list[Any]:
        gst = gstreamer()
        pipeline = gst.parse_launch(
            "videotestsrc num-buffers=5 ! video/x-raw,framerate=10/1 ! queue name=gate "
            "! appsink name=sink sync=false"
        )
        probe_buffers(pipeline.get_by_name("gate").get_static_pad("sink"), see)
        sink = pipeline.get_by_name("sink")
        pipeline.set_state(gst.State.PLAYING)
        found = []
        while (sample := sink.emit("pull-sample")) is not None:
            found.append(sample.get_buffer())
        pipeline.set_state(gst.State.NULL)
        return found

    return call


def test_what_a_buffer_says_is_what_gstreamer_says(play):
    seen: list[tuple[int, int, int, int]] = []

    def see(buffer: Buffer) -> bool:
        seen.append((buffer.pts, buffer.duration, buffer.offset, buffer.offset_end))
        return True

    buffers = play(see)
    assert seen == [(b.pts, b.duration, b.offset, b.offset_end) for b in buffers]
    assert [pts for pts, *_ in seen] == [i * SECOND // 10 for i in range(5)]


def test_what_is_written_to_it_travels_on(play):
    def mark(buffer: Buffer) -> bool:
        buffer.offset += 1000
        return True

    assert [buffer.offset for buffer in play(mark)] == [1000, 1001, 1002, 1003, 1004]


def test_what_is_not_wanted_is_dropped(play):
    offsets = [buffer.offset for buffer in play(lambda buffer: buffer.offset % 2 == 0)]
    assert offsets == [0, 2, 4]


def test_nothing_is_left_of_a_pad_that_has_gone():
    """PyGObject's own probes leave 48 bytes each, and the code of a callback."""
    gst, before = gstreamer(), len(probes._callbacks)

    def once() -> None:
        probe_buffers(gst.ElementFactory.make("queue").get_static_pad("sink"), lambda buffer: True)

    for _ in range(100):
        once()
    start = used()
    for _ in range(2000):
        once()
    assert used() - start < 2000 * 10
    assert len(probes._callbacks) == before


def in_a_process_of_its_own(code: str) -> list[str]:
    """What it prints, line by line, if it ends well."""
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_a_pad_may_outlive_the_program() -> None:
    """One that is kept, against the rule, by what sees its buffers."""
    in_a_process_of_its_own("""
from edge.sources.gst import gstreamer
from edge.sources.probes import probe_buffers
def once():
    pad = gstreamer().ElementFactory.make("queue").get_static_pad("sink")
    probe_buffers(pad, lambda buffer: pad is not None)
once()
""")


def test_a_device_that_is_no_camera_leaves_nothing_however_often_it_is_tried() -> None:
    """It fails before GStreamer has opened it, and is not closed like one that was opened."""
    counts = in_a_process_of_its_own("""
import gc, os
from edge.errors import SourceError
from edge.sources import probes
from edge.sources.source import Source
for _ in range(6):
    try:
        Source("/dev/null").open()
    except SourceError:
        gc.collect()
        print(len(os.listdir("/proc/self/fd")), len(probes._callbacks))
""")
    assert len(counts) == 6
    # The first may start what stays, such as the list of devices.
    assert set(counts[1:]) == {counts[1]}
    assert counts[1].endswith(" 0")
