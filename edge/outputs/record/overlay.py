"""Words under a picture, drawn in the picture's own format: nothing is converted to RGB for them.

camera's NV12, I420, ...   ->   the same picture, copied once, and a grey bar of text under it
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from edge.errors import printable
from edge.preprocess.surface import FORMATS, Layout, Surface

__all__ = ["READABLE", "bar", "captioned", "enlarged"]

Pixels = npt.NDArray[np.uint8]

READABLE = 320  # pixels across that text needs
_GROUND, _FIRST, _OTHER = 24, 255, 180


def enlarged(pixels: Pixels) -> Pixels:
    """RGB uint8 [H, W, 3], by a whole factor if it is too narrow for text; else the same array."""
    factor = -(-READABLE // pixels.shape[1])
    if factor == 1:
        return pixels
    return np.repeat(np.repeat(pixels, factor, axis=0), factor, axis=1)


@lru_cache(maxsize=16)  # of each camera the newest: mostly it says the same of many frames
def bar(lines: tuple[str, ...], width: int) -> Pixels:
    """Lines of text, grey on dark: uint8 [rows, width], read-only. The first line stands out.

    A line too long for the width is cut.
    """
    size = max(14, width // 36)
    font, row = ImageFont.load_default(size), size * 3 // 2
    canvas = Image.new("L", (width, row * len(lines) + row // 2), _GROUND)
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        text = _cut(printable(line), font, width - row)
        fill = _FIRST if number == 0 else _OTHER
        draw.text((row // 2, row // 4 + row * number), text, fill=fill, font=font)
    drawn = np.asarray(canvas)
    drawn.flags.writeable = False
    return drawn


def _cut(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """As much of a line as fits, with an ellipsis where something is missing."""
    if font.getlength(line) <= width:
        return line
    fits, most = 0, len(line)
    while fits + 1 < most:
        middle = (fits + most) // 2
        if font.getlength(f"{line[:middle]}…") <= width:
            fits = middle
        else:
            most = middle
    return f"{line[:fits]}…" if fits else ""


def captioned(surface: Surface, lines: tuple[str, ...]) -> Surface:
    """The picture with a bar of text under it, in the same format and in memory of its own.

    Its width and height are even, as encoders want them: a last odd row or column is left out. A
    row of a plane is padded to 4 bytes, and the planes are one array after the other, which is how
    GStreamer expects a picture of which it is told nothing else.
    """
    layout, form = surface.layout, FORMATS[surface.layout.format]
    width, height = layout.width & ~1, layout.height & ~1
    text = bar(lines, width)
    text = text[: len(text) & ~1]
    made = Layout(layout.format, width, height + len(text), layout.colour)
    sizes = [form.plane_size(plane, width, made.height) for plane in range(form.planes)]
    planes = [np.full((rows, -(-columns // 4) * 4), 255, np.uint8) for rows, columns in sizes]
    for number, (plane, given) in enumerate(zip(planes, surface.planes, strict=False)):
        rows, columns = form.plane_size(number, width, height)
        plane[:rows, :columns] = given[:rows, :columns]
    for index, (where, start, step) in enumerate(form.samples):
        chroma = index > 0 and not form.is_rgb
        down, across = (form.down, form.across) if chroma else (1, 1)
        under = planes[where][height // down :, start : start + step * (width // across) : step]
        under[:] = 128 if chroma else _levels(layout)[text]
    return Surface(made, tuple(planes))


def _levels(layout: Layout) -> Pixels:
    """The level that each grey has in this format: uint8 [256]."""
    if FORMATS[layout.format].is_rgb or layout.colour.full_range:
        return np.arange(256, dtype=np.uint8)
    return np.rint(16 + np.arange(256) * 219 / 255).astype(np.uint8)
