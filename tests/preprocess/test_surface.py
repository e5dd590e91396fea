import numpy as np
import pytest

from edge.errors import ImageError
from edge.preprocess.surface import FORMATS, Layout, Surface
from tests.preprocess.pictures import noise


@pytest.mark.parametrize(
    ("form", "sizes"),
    [
        ("RGB", [(5, 21)]),
        ("BGRx", [(5, 28)]),
        ("GRAY8", [(5, 7)]),
        ("NV12", [(5, 7), (3, 8)]),
        ("I420", [(5, 7), (3, 4), (3, 4)]),
        ("YUY2", [(5, 16)]),
        ("UYVY", [(5, 16)]),
    ],
)
def test_the_plane_sizes_of_an_image_of_odd_size(form, sizes):
    """7x5 pixels: a pair that is cut in half is stored whole."""
    found = [FORMATS[form].plane_size(i, 7, 5) for i in range(FORMATS[form].planes)]
    assert found == sizes


def test_an_unknown_format_or_an_empty_size_is_refused():
    with pytest.raises(ImageError, match="P010"):
        Layout("P010", 4, 4)
    with pytest.raises(ImageError, match="0x4"):
        Layout("RGB", 0, 4)


@pytest.mark.parametrize("form", FORMATS)
def test_a_plane_that_is_too_small_is_refused(form):
    surface = noise(form, 8, 6)
    for index in range(len(surface.planes)):
        for cut in (slice(None, -1), (slice(None), slice(None, -1))):
            planes = list(surface.planes)
            planes[index] = planes[index][cut]
            with pytest.raises(ImageError, match=f"plane {index}"):
                Surface(surface.layout, tuple(planes))
    with pytest.raises(ImageError, match="plane 0"):
        Surface(surface.layout, ())


def test_a_view_on_pixels_copies_nothing():
    pixels = np.zeros((9, 20, 3), np.uint8)[:, 3:12]
    surface = Surface.from_rgb(pixels)
    assert np.shares_memory(surface.planes[0], pixels)
    assert surface.planes[0].strides == (60, 1)


@pytest.mark.parametrize("view", [np.s_[::-1], np.s_[:, ::-1], np.s_[:, ::2]])
def test_pixels_in_another_order_are_copied(view):
    pixels = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)[view]
    surface = Surface.from_rgb(pixels)
    height, width = pixels.shape[:2]
    assert (np.array(surface.planes[0]).reshape(height, width, 3) == pixels).all()
    assert surface.planes[0].strides[0] >= 3 * width
