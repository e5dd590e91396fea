"""What the numbers in an NvBufSurface mean: its format and colours, and where its planes lie."""

from __future__ import annotations

from typing import Any

from edge.errors import SourceError
from edge.preprocess.surface import FORMATS, Colour, DeviceSurface, Layout, Matrix
from edge.sources.memory.colour import colour_of, siting
from edge.sources.memory.nvbufsurface import BLOCK_LINEAR, PITCH, Picture

__all__ = ["channels_of", "in_cuda", "layout_of", "linear"]

_TO_NV12 = "convert it: nvvidconv bl-output=false ! video/x-raw(memory:NVMM),format=NV12"

# NvBufSurfaceColorFormat: the format, its matrix and whether it has the full range. GStreamer has
# no names for the rest, or this project no conversion.
_FORMATS: dict[int, tuple[str, Matrix, bool]] = {
    1: ("GRAY8", "bt601", True),
    2: ("I420", "bt601", False),
    4: ("I420", "bt601", True),
    6: ("NV12", "bt601", False),
    7: ("NV12", "bt601", True),
    8: ("NV21", "bt601", False),
    9: ("NV21", "bt601", True),
    10: ("UYVY", "bt601", False),
    11: ("UYVY", "bt601", True),
    14: ("YUY2", "bt601", False),
    15: ("YUY2", "bt601", True),
    19: ("RGBA", "bt601", True),
    20: ("BGRA", "bt601", True),
    23: ("RGBx", "bt601", True),
    24: ("BGRx", "bt601", True),
    27: ("RGB", "bt601", True),
    28: ("BGR", "bt601", True),
    31: ("I420", "bt709", False),
    32: ("I420", "bt709", True),
    33: ("NV12", "bt709", False),
    34: ("NV12", "bt709", True),
    35: ("I420", "bt2020", False),
    36: ("NV12", "bt2020", False),
}


def layout_of(picture: Picture, caps: Any) -> Layout:
    """What the buffer says of itself; the caps add where chroma is sited, and a grey's range.

    Raises SourceError for what has no conversion here.
    """
    if picture.colour_format not in _FORMATS:
        raise SourceError(
            f"NVMM pictures of NvBufSurfaceColorFormat {picture.colour_format}", _TO_NV12
        )
    if picture.layout not in (PITCH, BLOCK_LINEAR):
        raise SourceError(f"NVMM memory of layout {picture.layout} is unknown", _TO_NV12)
    format, matrix, full_range = _FORMATS[picture.colour_format]
    if len(picture.pitches) < FORMATS[format].planes:
        raise SourceError(
            f"an NVMM picture in {format} with {len(picture.pitches)} planes", _TO_NV12
        )
    if FORMATS[format].is_rgb:
        colour = Colour()
    elif format == "GRAY8":
        colour = colour_of(caps, source="the NVMM picture")
    else:
        site = caps.get_structure(0).get_string("chroma-site")
        colour = Colour(matrix, full_range, *siting(site, full_range))
    return Layout(format, picture.width, picture.height, colour)


def in_cuda(picture: Picture, layout: Layout) -> DeviceSurface:
    """A picture that lies in CUDA memory. Raises SourceError."""
    if picture.layout != PITCH or not picture.data:
        raise SourceError(
            f"CUDA memory of layout {picture.layout} at address {picture.data:#x}", _TO_NV12
        )
    planes = tuple(picture.data + offset for offset in picture.offsets)
    return linear(layout, planes, picture.pitches)


def linear(layout: Layout, planes: tuple[int, ...], pitches: tuple[int, ...]) -> DeviceSurface:
    """A picture whose rows lie one after another. Raises SourceError when they overlap."""
    form = FORMATS[layout.format]
    for plane in range(form.planes):
        _, columns = form.plane_size(plane, layout.width, layout.height)
        if pitches[plane] < columns:
            raise SourceError(
                f"rows of {columns} bytes lie {pitches[plane]} apart in an NVMM picture", _TO_NV12
            )
    return DeviceSurface(layout, planes[: form.planes], pitches[: form.planes])


def channels_of(layout: Layout) -> list[int]:
    """How many channels the texture of each plane has. Raises SourceError for packed formats."""
    form = FORMATS[layout.format]
    if form.is_rgb or (form.down == 1 and form.across == 2):
        raise SourceError(f"a block-linear picture in {layout.format}", _TO_NV12)
    return [
        max(step for where, _, step in form.samples if where == plane)
        for plane in range(form.planes)
    ]
