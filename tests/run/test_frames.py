"""Frames are views: the right bytes at every layout, mapped while used, given back after."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.errors import SourceError
from edge.gst import gstreamer
from edge.run import frames
from edge.run.camera import Source
from edge.run.frames import Frame, frame_from_sample

Gst = gstreamer()


def sample_of(
    data: bytes, caps: str, meta: tuple[int, int] | None = None, pts: int | None = None
) -> Any:
    """A sample as an appsink gives it; meta: (offset, stride) of its only plane."""
    from gi.repository import GstVideo

    buffer = Gst.Buffer.new_wrapped(data)
    parsed = Gst.Caps.from_string(caps)
    if pts is not None:
        buffer.pts = pts
    if meta is not None:
        info = GstVideo.VideoInfo.new_from_caps(parsed)
        offsets, strides = ([value, 0, 0, 0] for value in meta)
        layout = (info.finfo.format, info.width, info.height, 1, offsets, strides)
        GstVideo.buffer_add_video_meta_full(buffer, 0, *layout)
    segment = Gst.Segment()
    segment.init(Gst.Format.TIME)
    return Gst.Sample.new(buffer, parsed, segment, None)


def frame_of(sample: Any) -> Frame:
    return frame_from_sample(sample, source="here", number=7, captured=1.5)


def rgb(width: int, height: int) -> str:
    return f"video/x-raw,format=RGB,width={width},height={height},framerate=30/1"


def test_fields() -> None:
    frame = frame_of(sample_of(bytes(24), rgb(4, 2), pts=500_000_000))
    assert (frame.source, frame.number, frame.pts, frame.captured) == ("here", 7, 0.5, 1.5)
    assert frame.pixels.dtype == np.uint8
    assert frame.pixels.shape == (2, 4, 3)
    assert not frame.pixels.flags.writeable


def test_no_timestamp() -> None:
    assert frame_of(sample_of(bytes(24), rgb(4, 2))).pts is None


def test_rows_of_an_odd_width_are_padded_to_four_bytes() -> None:
    # 3 pixels are 9 bytes, and a row is 12: the padding is 255 and must not be seen.
    rows = np.full((2, 12), 255, np.uint8)
    rows[:, :9] = np.arange(18).reshape(2, 9)
    pixels = frame_of(sample_of(rows.tobytes(), rgb(3, 2))).pixels
    assert pixels.strides == (12, 3, 1)
    assert pixels.tolist() == np.arange(18).reshape(2, 3, 3).tolist()


def test_the_meta_of_a_buffer_wins_over_its_caps() -> None:
    memory = np.full(5 + 2 * 32, 255, np.uint8)
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    np.lib.stride_tricks.as_strided(memory[5:], (2, 4, 3), (32, 3, 1))[...] = picture
    pixels = frame_of(sample_of(memory.tobytes(), rgb(4, 2), meta=(5, 32))).pixels
    assert np.array_equal(pixels, picture)


def test_an_odd_width_from_a_real_pipeline() -> None:
    colour = "videotestsrc num-buffers=1 pattern=solid-color foreground-color=0xff0a141e"
    with Source(f"gst:{colour} ! video/x-raw,format=RGB,width=321,height=243") as source:
        frame = source.read(5)
    assert frame is not None
    assert frame.pixels.shape == (243, 321, 3)
    assert (frame.pixels == (10, 20, 30)).all()


def test_too_few_bytes() -> None:
    with pytest.raises(SourceError, match="frame 7 of here is too small for 4x2 pixels"):
        frame_of(sample_of(bytes(23), rgb(4, 2)))
    with pytest.raises(SourceError, match="too small"):
        frame_of(sample_of(bytes(24), rgb(4, 2), meta=(1, 12)))


def test_not_rgb() -> None:
    with pytest.raises(SourceError, match="not RGB; end the pipeline with: videoconvert"):
        frame_of(sample_of(bytes(32), "video/x-raw,format=BGRx,width=4,height=2,framerate=1/1"))


def test_gstreamer_refuses_to_map(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        gst_buffer_map = staticmethod(lambda *_: 0)

    monkeypatch.setattr(frames, "_library", lambda: Library)
    with pytest.raises(SourceError, match="gst_buffer_map refused"):
        frame_of(sample_of(bytes(24), rgb(4, 2)))


def test_pixels_are_the_buffer_itself() -> None:
    data = bytearray(range(24))
    sample = sample_of(bytes(data), rgb(4, 2))
    pixels = frame_of(sample).pixels
    # What is written to GStreamer's memory shows in the array: it is no copy.
    ctypes.memset(pixels.__array_interface__["data"][0], 99, 1)
    assert sample.get_buffer().extract_dup(0, 2) == bytes([99, 1])
    assert pixels[0, 0].tolist() == [99, 1, 2]


def mapped(sample: Any) -> int:
    """How often the memory of a sample is mapped: the upper part of GStreamer's lock word."""
    return int(sample.get_buffer().peek_memory(0).mini_object.lockstate) >> 8 & 0xFF


def test_the_buffer_is_mapped_exactly_while_an_array_lives() -> None:
    sample = sample_of(bytes(range(24)), rgb(4, 2))
    idle = mapped(sample)
    frame = frame_of(sample)
    assert mapped(sample) == idle + 1
    corner = frame.pixels[1:, 2:]
    del frame
    gc.collect()
    assert mapped(sample) == idle + 1, "a view of a view must keep the buffer mapped"
    assert corner.tolist() == [[[18, 19, 20], [21, 22, 23]]]
    del corner
    gc.collect()
    assert mapped(sample) == idle


def test_frames_outlive_their_source(
    numbered: Path, number_in: Callable[[np.ndarray], int]
) -> None:
    with Source(str(numbered)) as source:
        kept = [frame for _ in range(8) if (frame := source.read(5))]
    assert [number_in(frame.pixels) for frame in kept] == list(range(8))


def test_buffers_go_back_to_their_pool(numbered: Path) -> None:
    addresses = set()
    with Source(str(numbered)) as source:
        while (frame := source.read(5)) is not None:
            addresses.add(frame.pixels.__array_interface__["data"][0])
    assert len(addresses) <= 8, "a buffer that stays mapped cannot be used again"
