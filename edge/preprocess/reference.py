"""The reference conversion to RGB, in the standards' real numbers.

The audit and the tests compare the integer formula of `surface.py` with it. It shares no arithmetic
and no table with the fast implementations, so that both cannot have the same mistake. It is slow,
and meant for occasional frames.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edge.preprocess.surface import FORMATS, Surface

__all__ = ["rgb_by_the_standard"]

Doubles = npt.NDArray[np.float64]

# ITU-R BT.601-7, BT.709-6 and BT.2020-2: the weights of red and blue in luma.
_RED = {"bt601": 0.299, "bt709": 0.2126, "bt2020": 0.2627}
_BLUE = {"bt601": 0.114, "bt709": 0.0722, "bt2020": 0.0593}
# EXIF 2.32, orientation: how the stored image is turned upright.
_TURNS: dict[int, Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]] = {
    1: lambda image: image,
    2: np.fliplr,
    3: lambda image: np.rot90(image, 2),
    4: np.flipud,
    5: lambda image: np.fliplr(np.rot90(image, -1)),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.fliplr(np.rot90(image)),
    8: np.rot90,
}
_BAND = 64  # rows at a time: in float64 a complete 4K frame takes half a gigabyte


def rgb_by_the_standard(surface: Surface) -> npt.NDArray[np.uint8]:
    """An image or a frame, upright, as RGB uint8 [H, W, 3], computed in float64, rounded once."""
    height, width = surface.layout.height, surface.layout.width
    out = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, _BAND):
        rows = np.arange(top, min(top + _BAND, height))
        parts = [_part(surface, index, rows) for index in range(_parts(surface))]
        if not FORMATS[surface.layout.format].is_rgb:
            parts = _from_yuv(surface, *parts)
        band = np.stack(parts, axis=-1)
        out[rows] = np.floor(np.clip(band, 0, 255) + 0.5).astype(np.uint8)
    return np.ascontiguousarray(_TURNS[surface.layout.orientation](out))


def _parts(surface: Surface) -> int:
    return len(FORMATS[surface.layout.format].samples)


def _part(surface: Surface, index: int, rows: npt.NDArray[np.intp]) -> Doubles:
    """One component, interpolated for every pixel of these rows: float64 [rows, width]."""
    layout, form = surface.layout, FORMATS[surface.layout.format]
    where, start, step = form.samples[index]
    samples = surface.planes[where][:, start::step]
    columns = np.arange(layout.width)
    if form.is_rgb or index == 0:
        full: Doubles = samples[rows, : layout.width].astype(np.float64)
        return full
    colour = layout.colour
    down = _between(rows, form.down, colour.cosited_down, layout.height)
    across = _between(columns, form.across, colour.cosited_across, layout.width)
    mixed: Doubles = _mix(_mix(samples, *down).T, *across).T
    return mixed


def _between(
    pixels: npt.NDArray[np.intp], reach: int, cosited: bool, length: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Doubles]:
    """The chroma samples on both sides of each pixel of an axis, and the weight of the second."""
    last = -(-length // reach) - 1
    centre = 0.0 if cosited else (reach - 1) / 2  # of a sample, in pixels from its first pixel
    place = np.clip((pixels - centre) / reach, 0, last)
    before = np.floor(place).astype(np.intp)
    return before, np.minimum(before + 1, last), place - before


def _mix(
    samples: npt.NDArray[np.generic],
    before: npt.NDArray[np.intp],
    after: npt.NDArray[np.intp],
    weight: Doubles,
) -> Doubles:
    """Linear interpolation between rows of `samples`."""
    first, second = (samples[index].astype(np.float64) for index in (before, after))
    mixed: Doubles = first + (second - first) * weight[:, None]
    return mixed


def _from_yuv(surface: Surface, y: Doubles, *chroma: Doubles) -> list[Doubles]:
    """R, G and B, not clipped. A grey image has R = G = B = Y."""
    colour = surface.layout.colour
    black, luma_range, chroma_range = (0, 255, 255) if colour.full_range else (16, 219, 224)
    luma = (y - black) / luma_range
    if not chroma:
        return [255 * luma] * 3
    red, blue = _RED[colour.matrix], _BLUE[colour.matrix]
    cb, cr = ((plane - 128) / chroma_range for plane in chroma)
    r = luma + 2 * (1 - red) * cr
    b = luma + 2 * (1 - blue) * cb
    # Luma is the weighted sum of R, G and B; solve it for G.
    g = (luma - red * r - blue * b) / (1 - red - blue)
    return [255 * part for part in (r, g, b)]
