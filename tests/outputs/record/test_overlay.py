"""Captions in the camera's pixel format: the frame is unchanged, and the bar is legible."""

from __future__ import annotations

import numpy as np
import pytest

from edge.errors import require
from edge.outputs.record.encoder import buffer_of, caps_of
from edge.outputs.record.overlay import bar, captioned, enlarged
from edge.preprocess.colour import to_rgb
from edge.preprocess.surface import FORMATS, Colour, Layout, Surface
from edge.sources.gst import gstreamer

LINES = ("tabby cat  97%", "2025-01-31 12:00:00 UTC, gate")


def noise(form: str, full_range: bool = False) -> Surface:
    """A surface of odd size with padded rows, as decoders produce them."""
    layout = Layout(form, 323, 241, Colour(full_range=full_range))
    rng = np.random.default_rng(1)
    sizes = [FORMATS[form].plane_size(plane, 323, 241) for plane in range(FORMATS[form].planes)]
    planes = (rng.integers(0, 256, (rows + 2, columns + 13), np.uint8) for rows, columns in sizes)
    return Surface(layout, tuple(planes))


@pytest.mark.parametrize("form", FORMATS)
def test_the_frame_is_unchanged_and_a_bar_is_below_it(form: str) -> None:
    surface = noise(form)
    before = [plane.copy() for plane in surface.planes]
    result = captioned(surface, LINES)
    assert all(map(np.array_equal, before, surface.planes))
    assert result.layout.format == form
    assert (result.layout.width, result.layout.height % 2) == (322, 0)
    shown, text = to_rgb(result), bar(LINES, 322)
    # The last chroma sample is interpolated with the cut-off neighbour, or with the bar.
    assert np.array_equal(shown[:238, :320], to_rgb(surface)[:238, :320])
    drawn = shown[242:].astype(int)
    assert np.abs(drawn - text[2 : 2 + len(drawn), :, None]).max() <= 2


@pytest.mark.parametrize("full_range", [False, True])
def test_the_bar_is_equally_dark_in_full_and_limited_range(full_range: bool) -> None:
    result = captioned(noise("NV12", full_range), LINES)
    assert result.layout.colour.full_range == full_range
    assert np.abs(to_rgb(result)[242:, -8:].astype(int) - 24).max() <= 1


@pytest.mark.parametrize("form", FORMATS)
def test_the_planes_have_the_default_layout_of_gstreamer(form: str) -> None:
    result = captioned(noise(form), LINES)
    gstreamer()
    info = require("gi.repository.GstVideo").VideoInfo.new_from_caps(caps_of(result.layout))
    assert [info.stride[plane] for plane in range(len(result.planes))] == [
        plane.strides[0] for plane in result.planes
    ]
    offsets = np.cumsum([0, *(plane.nbytes for plane in result.planes)])
    assert [info.offset[plane] for plane in range(len(result.planes))] == list(offsets[:-1])
    assert info.size == offsets[-1] == buffer_of(result).get_size()


@pytest.mark.parametrize(
    "colour", [Colour(m, f) for m in ("bt601", "bt709", "bt2020") for f in (0, 1)]
)
def test_the_caps_state_the_colorimetry(colour: Colour) -> None:
    caps = caps_of(Layout("NV12", 640, 480, colour))
    assert gstreamer().Caps.is_fixed(caps)
    parsed = require("gi.repository.GstVideo").VideoInfo.new_from_caps(caps).colorimetry
    assert parsed.matrix.value_nick == colour.matrix
    assert parsed.range.value_nick == ("0-255" if colour.full_range else "16-235")


def test_a_line_too_long_is_cut_with_an_ellipsis_at_the_edge() -> None:
    short, cut = bar(("a" * 10,), 640), bar(("a" * 100_000,), 640)
    assert short.shape == cut.shape
    assert cut[:, -12:].max() == 24, "no text touches the edge"
    assert (cut[:, 560:] > 100).any(), "the line is as long as it can be"


def test_a_narrow_image_is_enlarged_by_an_integer_factor() -> None:
    tiny = np.arange(8 * 100 * 3, dtype=np.uint32).astype(np.uint8).reshape(8, 100, 3)
    assert enlarged(tiny).shape == (32, 400, 3)
    assert np.array_equal(enlarged(tiny)[::4, ::4], tiny)
    wide = np.zeros((8, 320, 3), np.uint8)
    assert enlarged(wide) is wide
