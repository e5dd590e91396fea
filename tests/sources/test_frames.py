"""Frames are views: the right bytes at every layout, mapped while used, given back after."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.errors import SourceError
from edge.preprocess.surface import FORMATS, Colour, DeviceSurface, Layout, Surface
from edge.sources.frame import Frame
from edge.sources.gst import gstreamer
from edge.sources.memory import mapping
from edge.sources.samples import frame_from_sample, stream_seconds
from edge.sources.source import Source
from tests.streams import FRAMES

Gst = gstreamer()

YUV = sorted(name for name, form in FORMATS.items() if not form.is_rgb and name != "GRAY8")


def sample_of(
    data: bytes | Sequence[bytes],
    caps: str,
    meta: tuple[Sequence[int], Sequence[int]] | None = None,
    pts: int | None = None,
) -> Any:
    """A sample as an appsink gives it, of one memory or several; meta: (offsets, strides)."""
    from gi.repository import GstVideo

    buffer = Gst.Buffer.new()
    for part in [data] if isinstance(data, bytes) else data:
        buffer.append_memory(Gst.Buffer.new_wrapped(part).get_memory(0))
    parsed = Gst.Caps.from_string(caps)
    if pts is not None:
        buffer.pts = pts
    if meta is not None:
        info = GstVideo.VideoInfo.new_from_caps(parsed)
        padded = ([*values, 0, 0, 0][:4] for values in meta)
        layout = (info.finfo.format, info.width, info.height, len(meta[0]), *padded)
        GstVideo.buffer_add_video_meta_full(buffer, 0, *layout)
    segment = Gst.Segment()
    segment.init(Gst.Format.TIME)
    return Gst.Sample.new(buffer, parsed, segment, None)


def frame_of(sample: Any) -> Frame:
    return frame_from_sample(sample, source="here", number=7, captured=1.5)


def surface_of(sample: Any) -> Surface:
    surface = frame_of(sample).surface
    assert isinstance(surface, Surface)
    return surface


def raw(format: str, width: int, height: int, more: str = "") -> str:
    caps = f"video/x-raw,format={format},width={width},height={height},framerate=30/1"
    return f"{caps},{more}" if more else caps


def rgb(width: int, height: int) -> str:
    return raw("RGB", width, height)


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_fields() -> None:
    frame = frame_of(sample_of(bytes(24), rgb(4, 2), pts=500_000_000))
    assert (frame.source, frame.number, frame.pts, frame.captured) == ("here", 7, 0.5, 1.5)
    assert frame.path == "system"
    assert frame.surface.layout == Layout("RGB", 4, 2)
    assert frame.pixels.dtype == np.uint8
    assert frame.pixels.shape == (2, 4, 3)
    assert not frame.pixels.flags.writeable


def test_no_timestamp() -> None:
    assert frame_of(sample_of(bytes(24), rgb(4, 2))).pts is None


def test_a_time_before_the_stream_began_is_none() -> None:
    """GStreamer counts it from 2**64 down: half a millennium. A clock that is set back gives it."""
    assert stream_seconds(2**64 - 5_000_000_000) == -5
    assert frame_of(sample_of(bytes(24), rgb(4, 2), pts=2**64 - 5_000_000_000)).pts is None


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
    pixels = frame_of(sample_of(memory.tobytes(), rgb(4, 2), meta=([5], [32]))).pixels
    assert np.array_equal(pixels, picture)


@pytest.mark.parametrize("format", sorted(FORMATS))
@pytest.mark.parametrize("size", [(8, 4), (5, 3), (1, 1)])
def test_planes_lie_where_the_meta_puts_them(format: str, size: tuple[int, int]) -> None:
    """Every plane has its own pitch, and starts at no multiple of another one's."""
    rng = np.random.default_rng(0)
    offsets, pitches, planes, parts = [], [], [], []
    for plane in range(FORMATS[format].planes):
        rows, columns = FORMATS[format].plane_size(plane, *size)
        offsets.append(sum(map(len, parts)) + 7)
        pitches.append(columns + 5 + 2 * plane)
        planes.append(rng.integers(0, 256, (rows, columns), np.uint8))
        padded = np.zeros((rows, pitches[-1]), np.uint8)
        padded[:, :columns] = planes[-1]
        # The last row ends with its last pixel, as the planes of a tightly packed pool do.
        parts.append(bytes(7) + padded.tobytes()[: pitches[-1] * (rows - 1) + columns])
    sample = sample_of(b"".join(parts), raw(format, *size), meta=(offsets, pitches))
    surface = surface_of(sample)
    assert (surface.layout.format, surface.layout.width, surface.layout.height) == (format, *size)
    assert [plane.tolist() for plane in surface.planes] == [plane.tolist() for plane in planes]
    assert [plane.strides[0] for plane in surface.planes] == pitches
    assert not any(plane.flags.writeable for plane in surface.planes)
    # Without its last byte the last plane is not all there.
    short = sample_of(b"".join(parts)[:-1], raw(format, *size), meta=(offsets, pitches))
    with pytest.raises(SourceError, match="too small"):
        frame_of(short)


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_without_a_meta_planes_lie_where_the_caps_imply(format: str) -> None:
    """Real elements write odd sizes; planes are what GStreamer itself says the caps mean."""
    from gi.repository import GstVideo

    caps = Gst.Caps.from_string(raw(format, 37, 19))
    info = GstVideo.VideoInfo.new_from_caps(caps)
    data = np.random.default_rng(1).integers(0, 256, info.size, np.uint8)
    surface = surface_of(sample_of(data.tobytes(), caps.to_string()))
    for index, plane in enumerate(surface.planes):
        rows, columns = FORMATS[format].plane_size(index, 37, 19)
        assert plane.shape == (rows, columns)
        start, stride = info.offset[index], info.stride[index]
        for row in range(rows):
            at = start + row * stride
            assert plane[row].tolist() == data[at : at + columns].tolist()


@pytest.mark.parametrize("format", sorted(name for name in FORMATS if FORMATS[name].is_rgb))
def test_pixels_of_packed_formats_are_a_view_in_the_order_of_rgb(format: str) -> None:
    step = FORMATS[format].samples[0].step
    rows = np.random.default_rng(2).integers(0, 256, (2, 4, step), np.uint8)
    frame = frame_of(sample_of(rows.tobytes(), raw(format, 4, 2), meta=([0], [4 * step])))
    places = [sample.start for sample in FORMATS[format].samples]
    assert frame.pixels.tolist() == rows[..., places].tolist()
    assert not frame.pixels.flags.writeable
    assert np.shares_memory(frame.pixels, frame.surface.planes[0])


def test_the_pixels_of_a_picture_on_the_gpu_are_brought_from_there() -> None:
    here = Surface.from_rgb(np.arange(24, dtype=np.uint8).reshape(2, 4, 3))

    class Reader:
        def download(self, surface: DeviceSurface) -> Surface:
            assert surface is there
            return here

    there = DeviceSurface(Layout("RGB", 4, 2), (1,), (12,))
    reader: Any = Reader()
    frame = Frame("here", 3, None, 0.0, "cuda", there, reader=reader)
    assert frame.host_surface is here
    assert frame.pixels.tolist() == np.arange(24).reshape(2, 4, 3).tolist()


def test_an_odd_width_from_a_real_pipeline() -> None:
    colour = "videotestsrc num-buffers=1 pattern=solid-color foreground-color=0xff0a141e"
    with Source(f"gst:{colour} ! video/x-raw,format=RGB,width=321,height=243") as source:
        frame = source.read(5)
    assert frame is not None
    assert frame.pixels.shape == (243, 321, 3)
    assert (frame.pixels == (10, 20, 30)).all()


def test_too_few_bytes() -> None:
    with pytest.raises(SourceError, match="frame 7 of here is too small for 4x2 RGB pixels"):
        frame_of(sample_of(bytes(23), rgb(4, 2)))
    with pytest.raises(SourceError, match="too small"):
        frame_of(sample_of(bytes(24), rgb(4, 2), meta=([1], [12])))


def test_rows_that_overlap() -> None:
    with pytest.raises(SourceError, match="too small"):
        frame_of(sample_of(bytes(24), rgb(4, 2), meta=([0], [11])))


@pytest.mark.parametrize("caps", [raw("NV24", 4, 2), "image/jpeg,width=4,height=2"])
def test_caps_that_nothing_reads(caps: str) -> None:
    with pytest.raises(SourceError, match=r"is not supported; end the pipeline with: .*NV12"):
        frame_of(sample_of(bytes(64), caps))


def test_the_mend_for_other_caps_is_one_that_gstreamer_understands() -> None:
    with pytest.raises(SourceError) as raised:
        frame_of(sample_of(bytes(64), raw("NV24", 4, 2)))
    Gst.parse_launch("videotestsrc ! " + raised.value.hint.partition(": ")[2] + " ! fakesink")


def test_memory_of_the_gpu_is_read_by_the_reader_given() -> None:
    sample = sample_of(bytes(64), "video/x-raw(memory:NVMM),format=NV12,width=4,height=2")
    with pytest.raises(SourceError, match="memory:NVMM"):
        frame_of(sample)
    surface = DeviceSurface(Layout("NV12", 4, 2), (1, 2), (4, 4))

    class Reader:
        def surface(self, seen: Any) -> Any:
            assert seen is sample
            return surface, "nvmm-pitch", self

    reader = Reader()
    frame = frame_from_sample(sample, source="here", number=7, captured=1.5, device=reader)
    assert (frame.path, frame.surface, frame.owner) == ("nvmm-pitch", surface, reader)
    turned = frame_from_sample(
        sample, source="here", number=7, captured=1.5, device=reader, orientation=6
    )
    assert turned.surface.layout == replace(surface.layout, orientation=6)
    assert turned.surface.planes == surface.planes


def test_a_feature_that_is_no_memory_changes_nothing() -> None:
    caps = "video/x-raw(meta:GstVideoOverlayComposition),format=RGB,width=4,height=2"
    assert frame_of(sample_of(bytes(24), caps)).pixels.shape == (2, 4, 3)


def test_gstreamer_refuses_to_map(monkeypatch: pytest.MonkeyPatch) -> None:
    real = mapping._library()

    class Library:
        gst_buffer_find_memory = staticmethod(real.gst_buffer_find_memory)
        gst_buffer_map_range = staticmethod(lambda *_: 0)

    monkeypatch.setattr(mapping, "_library", lambda: Library)
    with pytest.raises(SourceError, match=r"cannot be mapped for reading \(gst_buffer_map_range"):
        frame_of(sample_of(bytes(24), rgb(4, 2)))


def test_pixels_are_the_buffer_itself() -> None:
    data = bytearray(range(24))
    sample = sample_of(bytes(data), rgb(4, 2))
    pixels = frame_of(sample).pixels
    # What is written to GStreamer's memory shows in the array: it is no copy.
    ctypes.memset(address(pixels), 99, 1)
    assert sample.get_buffer().extract_dup(0, 2) == bytes([99, 1])
    assert pixels[0, 0].tolist() == [99, 1, 2]


@pytest.mark.parametrize("parts", [(32, 8, 8), (32, 16), (40, 8), (10, 38)])
def test_planes_in_memories_of_their_own(parts: tuple[int, ...]) -> None:
    """I420 of 8x4 pixels: rows of 8, 4 and 4 bytes. Only a plane cut in two is put together."""
    whole = bytes(range(48))
    ends = np.cumsum(parts).tolist()
    memories = [whole[end - part : end] for part, end in zip(parts, ends, strict=True)]
    sample = sample_of(memories, raw("I420", 8, 4), meta=([0, 32, 40], [8, 4, 4]))
    surface = surface_of(sample)
    assert [plane.ravel().tolist() for plane in surface.planes] == [
        list(whole[:32]),
        list(whole[32:40]),
        list(whole[40:]),
    ]
    if parts != (10, 38):
        for plane in surface.planes:
            ctypes.memset(address(plane), 255, 1)
        written = sample.get_buffer().extract_dup(0, 48)
        assert [written[0], written[32], written[40]] == [255, 255, 255], "a plane was copied"


def mapped(sample: Any, memory: int = 0) -> int:
    """How often a memory of a sample is mapped: the upper part of GStreamer's lock word."""
    return int(sample.get_buffer().peek_memory(memory).mini_object.lockstate) >> 8 & 0xFF


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


def test_planes_share_one_map_and_each_keeps_it() -> None:
    sample = sample_of(bytes(48), raw("I420", 8, 4), meta=([0, 32, 40], [8, 4, 4]))
    idle = mapped(sample)
    frame = frame_of(sample)
    assert mapped(sample) == idle + 1
    plane = frame.surface.planes[2]
    del frame
    gc.collect()
    assert mapped(sample) == idle + 1
    del plane
    gc.collect()
    assert mapped(sample) == idle


def test_the_owner_keeps_the_memory_without_the_arrays() -> None:
    sample = sample_of([bytes(32), bytes(16)], raw("NV12", 8, 4), meta=([0, 32], [8, 8]))
    idle = mapped(sample), mapped(sample, 1)
    owner = frame_of(sample).owner
    gc.collect()
    assert (mapped(sample), mapped(sample, 1)) == (idle[0] + 1, idle[1] + 1)
    del owner
    gc.collect()
    assert (mapped(sample), mapped(sample, 1)) == idle


def test_frames_outlive_their_source(
    numbered: Path, number_in: Callable[[np.ndarray], int]
) -> None:
    with Source(str(numbered)) as source:
        kept = [frame for _ in range(8) if (frame := source.read(5))]
    assert [number_in(frame.pixels) for frame in kept] == list(range(8))


def test_buffers_go_back_to_their_pool(numbered: Path) -> None:
    """How many are in use at a time depends on the decoder's threads, and on the machine."""
    addresses = set()
    with Source(str(numbered)) as source:
        while (frame := source.read(5)) is not None:
            assert isinstance(frame.surface, Surface)
            addresses.add(address(frame.surface.planes[0]))
    assert len(addresses) <= FRAMES // 2, "a buffer that stays mapped cannot be used again"


# Colours.


def colour(format: str, width: int, height: int, more: str = "") -> Colour:
    size = 8 * width * height
    layout = surface_of(sample_of(bytes(size), raw(format, width, height, more))).layout
    return layout.colour


@pytest.mark.parametrize(
    ("height", "matrix"),
    [(8, "bt601"), (576, "bt601"), (578, "bt709"), (2158, "bt709"), (2160, "bt2020")],
)
@pytest.mark.parametrize("format", YUV)
def test_caps_without_colours(format: str, height: int, matrix: str) -> None:
    # GStreamer 1.22 would make pictures of up to 576 rows centred. No codec or camera means that.
    assert colour(format, 2, height) == Colour(matrix, False, True, False)


@pytest.mark.parametrize(
    ("text", "matrix", "full"),
    [
        ("bt601", "bt601", False),
        ("bt709", "bt709", False),
        ("bt2020", "bt2020", False),
        ("bt2020-10", "bt2020", False),
        ("2:4:16:4", "bt601", False),
        ("2:3:5:1", "bt709", False),
        ("1:3:5:1", "bt709", True),
        ("1:4:0:0", "bt601", True),
        ("1:4:7:1", "bt601", True),
        ("1:6:13:7", "bt2020", True),
        # What does not say all leaves the rest to the size: 8 rows are BT.601.
        ("1:0:0:0", "bt601", True),
        ("2:0:0:0", "bt601", False),
        ("0:3:0:0", "bt709", False),
        # RGB's matrix in YUV is a driver's mistake; GStreamer passes over it, too.
        ("sRGB", "bt601", True),
        ("nonsense", "bt601", False),
    ],
)
def test_colorimetry(text: str, matrix: str, full: bool) -> None:
    assert colour("NV12", 8, 8, f"colorimetry={text}") == Colour(matrix, full, not full, False)


@pytest.mark.parametrize("text", ["smpte240m", "2:2:5:1"])
def test_other_colours(text: str) -> None:
    with pytest.raises(SourceError, match=r"delivers (smpte240m|fcc) colours.*videoconvert !"):
        colour("NV12", 8, 8, f"colorimetry={text}")


def test_a_grey_picture_is_full_range_unless_told() -> None:
    assert colour("GRAY8", 8, 8).full_range
    assert colour("GRAY8", 8, 8, "colorimetry=1:4:0:0").full_range
    assert not colour("GRAY8", 8, 8, "colorimetry=bt601").full_range
    assert not colour("GRAY8", 8, 8, "colorimetry=smpte240m").full_range


@pytest.mark.parametrize("more", ["", "colorimetry=bt709", "colorimetry=1:4:0:0"])
@pytest.mark.parametrize(
    ("text", "across", "down"),
    [
        ("none", False, False),
        ("jpeg", False, False),
        ("mpeg2", True, False),
        ("cosited", True, True),
        ("v-cosited", False, True),
        ("dv", True, True),
    ],
)
def test_chroma_site(text: str, across: bool, down: bool, more: str) -> None:
    found = colour("I420", 8, 8, ",".join(filter(None, [f"chroma-site={text}", more])))
    assert (found.cosited_across, found.cosited_down) == (across, down)


def test_caps_that_say_half() -> None:
    """GStreamer 1.22's VideoInfo forgets the one field when the other is missing."""
    from gi.repository import GstVideo

    caps = raw("I420", 320, 240, "chroma-site=mpeg2")
    assert GstVideo.VideoInfo.new_from_caps(Gst.Caps.from_string(caps)).chroma_site == 1
    assert colour("I420", 320, 240, "chroma-site=mpeg2").cosited_across


def first(pipeline: str) -> Any:
    launched = Gst.parse_launch(f"{pipeline} ! appsink name=sink sync=false")
    launched.set_state(Gst.State.PLAYING)
    sample = launched.get_by_name("sink").try_pull_sample(10 * Gst.SECOND)
    launched.set_state(Gst.State.NULL)
    assert sample is not None
    return sample


@pytest.mark.parametrize(
    ("pipeline", "height", "expected"),
    [
        # A source that knows no codec says nothing at all.
        ("{raw}", 240, Colour("bt601", False, True, False)),
        ("{raw}", 720, Colour("bt709", False, True, False)),
        # A decoder says what the stream says; where that is nothing, GStreamer's own defaults.
        ("{raw} ! x264enc ! avdec_h264", 240, Colour("bt601", False, False, False)),
        ("{raw} ! x264enc ! avdec_h264", 720, Colour("bt709", False, True, False)),
        ("{raw},{said} ! x264enc ! avdec_h264", 240, Colour("bt709", False, True, False)),
        ("{raw} ! jpegenc ! jpegdec", 240, Colour("bt601", True, False, False)),
        ("{raw} ! jpegenc ! jpegdec", 720, Colour("bt601", True, False, False)),
    ],
)
def test_colours_of_real_pipelines(pipeline: str, height: int, expected: Colour) -> None:
    source = f"videotestsrc num-buffers=1 ! video/x-raw,format=I420,width=320,height={height}"
    said = "colorimetry=bt709,chroma-site=mpeg2"
    surface = surface_of(first(pipeline.format(raw=source, said=said)))
    assert surface.layout == Layout("I420", 320, height, expected)


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_every_format_from_a_real_pipeline(format: str) -> None:
    """White is white in every plane, at a size that is odd both ways."""
    # videotestsrc itself leaves out the last V of an odd row, and paints grey in limited range.
    white = "videotestsrc num-buffers=1 pattern=white ! video/x-raw,format=BGRx,width=33,height=17"
    surface = surface_of(first(f"{white} ! videoconvert ! video/x-raw,format={format}"))
    form = FORMATS[format]
    for index, (plane, start, step) in enumerate(form.samples):
        # YUY2's last pair has a second luma that is no pixel: whatever was in the memory.
        count = 33 if form.is_rgb or not index else -(-33 // form.across)
        values = set(surface.planes[plane][:, start::step][:, :count].ravel().tolist())
        expected = 255 if form.is_rgb or format == "GRAY8" else 128 if index else 235
        assert values == {expected}
