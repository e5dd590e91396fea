"""Conversion of YUV to RGB: within half a level of the standards' formula."""

import numpy as np
import pytest

from edge.preprocess.colour import to_rgb
from edge.preprocess.surface import FORMATS, Colour, rgb_weights
from tests.preprocess.pictures import COLOURS, by_the_book, noise

YUV = [name for name, form in FORMATS.items() if not form.is_rgb]


@pytest.mark.parametrize("form", YUV)
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 1), (1, 5), (17, 33), (64, 36)])
def test_every_colour_is_within_half_a_level_of_the_formula(form, size):
    for colour in COLOURS:
        surface = noise(form, *size, colour, padding=5)
        assert np.abs(to_rgb(surface) - by_the_book(surface)).max() <= 0.502


@pytest.mark.parametrize("colour", COLOURS)
def test_white_black_and_grey_are_exact(colour):
    black, white = (0, 255) if colour.full_range else (16, 235)
    surface = noise("I420", 4, 4, colour)
    for level, expected in ((black, 0), (white, 255)):
        planes = [np.full_like(surface.planes[0], level)]
        planes += [np.full_like(plane, 128) for plane in surface.planes[1:]]
        assert (to_rgb(type(surface)(surface.layout, tuple(planes))) == expected).all()


@pytest.mark.parametrize(
    ("form", "order"),
    [("RGB", "RGB"), ("BGR", "BGR"), ("RGBA", "RGBA"), ("BGRx", "BGRX"), ("BGRA", "BGRA")],
)
def test_packed_rgb_formats_are_views_in_rgb_order(form, order):
    surface = noise(form, 5, 4, padding=7)
    pixels = to_rgb(surface)
    assert np.shares_memory(pixels, surface.planes[0])
    raw = np.array(surface.planes[0]).reshape(4, 5, len(order))
    for channel, name in enumerate("RGB"):
        assert (pixels[..., channel] == raw[..., order.index(name)]).all()


def test_the_sums_fit_32_bits():
    largest = np.array([255, 16 * 255, 16 * 255])
    for colour in COLOURS:
        weights = rgb_weights(colour).astype(np.int64)
        reach = np.abs(weights[:, :3]) @ largest + np.abs(weights[:, 3])
        assert (reach < 2**31).all()


def test_formats_differ_only_where_their_bytes_lie():
    """The same samples, stored as NV12, NV21 and I420, and as YUY2 and UYVY, are one picture."""
    nv12 = noise("NV12", 8, 6, Colour("bt601"))
    y, uv = nv12.planes
    nv21 = np.ascontiguousarray(uv.reshape(3, 4, 2)[..., ::-1]).reshape(3, 8)
    i420 = uv.reshape(3, 4, 2)
    expected = to_rgb(nv12)
    for form, planes in (
        ("NV21", (y, nv21)),
        ("I420", (y, np.array(i420[..., 0]), np.array(i420[..., 1]))),
    ):
        layout = type(nv12.layout)(form, 8, 6, Colour("bt601"))
        assert (to_rgb(type(nv12)(layout, planes)) == expected).all()
    yuy2 = noise("YUY2", 8, 6, Colour("bt601"))
    swapped = np.ascontiguousarray(yuy2.planes[0].reshape(6, 8, 2)[..., ::-1]).reshape(6, 16)
    layout = type(yuy2.layout)("UYVY", 8, 6, Colour("bt601"))
    assert (to_rgb(type(yuy2)(layout, (swapped,))) == to_rgb(yuy2)).all()
