"""Captions: a bar of text below a frame, drawn in the frame's own pixel format.

The frame is copied once and not converted to RGB.
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

READABLE = 320  # pixels; the smallest width that text needs
_BACKGROUND, _FIRST, _OTHER = 24, 255, 180  # grey levels


def enlarged(pixels: Pixels) -> Pixels:
    """RGB uint8 [H, W, 3], enlarged by an integer factor if narrower than `READABLE`."""
    factor = -(-READABLE // pixels.shape[1])
    if factor == 1:
        return pixels
    return np.repeat(np.repeat(pixels, factor, axis=0), factor, axis=1)


@lru_cache(maxsize=16)  # about one entry per camera: the text is the same for many frames
def bar(lines: tuple[str, ...], width: int) -> Pixels:
    """Lines of text on a dark background: grey uint8 [rows, width], read-only.

    The first line is highlighted. A line too long for the width is cut.
    """
    size = max(14, width // 36)
    font, row = ImageFont.load_default(size), size * 3 // 2
    canvas = Image.new("L", (width, row * len(lines) + row // 2), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        text = _cut(printable(line), font, width - row)
        fill = _FIRST if number == 0 else _OTHER
        draw.text((row // 2, row // 4 + row * number), text, fill=fill, font=font)
    drawn = np.asarray(canvas)
    drawn.flags.writeable = False
    return drawn


def _cut(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """As much of a line as fits, with an ellipsis if it was cut."""
    if font.getlength(line) <= width:
        return line
    fits, too_long = 0, len(line)
    while fits + 1 < too_long:
        middle = (fits + too_long) // 2
        if font.getlength(f"{line[:middle]}…") <= width:
            fits = middle
        else:
            too_long = middle
    return f"{line[:fits]}…" if fits else ""


def captioned(surface: Surface, lines: tuple[str, ...]) -> Surface:
    """A copy of the surface with a bar of text below it, in the same pixel format.

    Encoders need an even width and height, so an odd last row or column is cut off. Rows of a plane
    are padded to 4 bytes, which is GStreamer's default layout for buffers without video meta.
    """
    layout, form = surface.layout, FORMATS[surface.layout.format]
    width, height = layout.width & ~1, layout.height & ~1
    text = bar(lines, width)
    text = text[: len(text) & ~1]
    captioned_layout = Layout(layout.format, width, height + len(text), layout.colour)
    sizes = [form.plane_size(plane, width, captioned_layout.height) for plane in range(form.planes)]
    planes = [np.full((rows, -(-columns // 4) * 4), 255, np.uint8) for rows, columns in sizes]
    for number, (plane, original) in enumerate(zip(planes, surface.planes, strict=False)):
        rows, columns = form.plane_size(number, width, height)
        plane[:rows, :columns] = original[:rows, :columns]
    for index, (plane_index, start, step) in enumerate(form.samples):
        is_chroma = index > 0 and not form.is_rgb
        down, across = (form.down, form.across) if is_chroma else (1, 1)
        columns_of_sample = slice(start, start + step * (width // across), step)
        bar_area = planes[plane_index][height // down :, columns_of_sample]
        bar_area[:] = 128 if is_chroma else _levels(layout)[text]
    return Surface(captioned_layout, tuple(planes))


def _levels(layout: Layout) -> Pixels:
    """Table from grey 0..255 to the sample value in this format and range: uint8 [256]."""
    if FORMATS[layout.format].is_rgb or layout.colour.full_range:
        return np.arange(256, dtype=np.uint8)
    return np.rint(16 + np.arange(256) * 219 / 255).astype(np.uint8)
