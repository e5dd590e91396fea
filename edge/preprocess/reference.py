"""RGB by the standards' own real numbers: what the integer formula of `surface.py` is held against.

It shares no arithmetic and no table with the fast ways, so that a mistake there is not one here,
too. It is slow, and made for a frame now and then.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge.preprocess.surface import FORMATS, Surface

__all__ = ["rgb_by_the_standard"]

Doubles = npt.NDArray[np.float64]

# ITU-R BT.601-7, BT.709-6 and BT.2020-2: how much red and blue weigh in luma.
_RED = {"bt601": 0.299, "bt709": 0.2126, "bt2020": 0.2627}
_BLUE = {"bt601": 0.114, "bt709": 0.0722, "bt2020": 0.0593}
_BAND = 64  # rows at a time: real numbers of a whole 4K picture take half a gigabyte


def rgb_by_the_standard(surface: Surface) -> npt.NDArray[np.uint8]:
    """A picture as RGB uint8 [H, W, 3], in float64 and rounded once, at the end."""
    height, width = surface.layout.height, surface.layout.width
    out = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, _BAND):
        rows = np.arange(top, min(top + _BAND, height))
        parts = [_part(surface, index, rows) for index in range(_parts(surface))]
        if not FORMATS[surface.layout.format].is_rgb:
            parts = _from_yuv(surface, *parts)
        band = np.stack(parts, axis=-1)
        out[rows] = np.floor(np.clip(band, 0, 255) + 0.5).astype(np.uint8)
    return out


def _parts(surface: Surface) -> int:
    return len(FORMATS[surface.layout.format].samples)


def _part(surface: Surface, index: int, rows: npt.NDArray[np.intp]) -> Doubles:
    """One component at every pixel of these rows: float64 [rows, width]."""
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
    """The chroma samples on both sides of each pixel of an axis, and the second one's share."""
    last = -(-length // reach) - 1
    centre = 0.0 if cosited else (reach - 1) / 2  # of a sample, in pixels from its first one
    place = np.clip((pixels - centre) / reach, 0, last)
    before = np.floor(place).astype(np.intp)
    return before, np.minimum(before + 1, last), place - before


def _mix(
    samples: npt.NDArray[np.generic],
    before: npt.NDArray[np.intp],
    after: npt.NDArray[np.intp],
    share: Doubles,
) -> Doubles:
    """Linear between rows of `samples`."""
    first, second = (samples[index].astype(np.float64) for index in (before, after))
    mixed: Doubles = first + (second - first) * share[:, None]
    return mixed


def _from_yuv(surface: Surface, y: Doubles, *chroma: Doubles) -> list[Doubles]:
    """R, G and B, not clipped. Y is R = G = B of a grey picture."""
    colour = surface.layout.colour
    black, light, reach = (0, 255, 255) if colour.full_range else (16, 219, 224)
    luma = (y - black) / light
    if not chroma:
        return [255 * luma] * 3
    red, blue = _RED[colour.matrix], _BLUE[colour.matrix]
    cb, cr = ((plane - 128) / reach for plane in chroma)
    r = luma + 2 * (1 - red) * cr
    b = luma + 2 * (1 - blue) * cb
    # Luma is the weighted sum of all three: what red and blue leave of it is green's.
    g = (luma - red * r - blue * b) / (1 - red - blue)
    return [255 * part for part in (r, g, b)]
