"""The pixel format, colours and planes of an NvBufSurface, from its numeric fields."""

from __future__ import annotations

from typing import Any

from edge.errors import SourceError
from edge.preprocess.surface import FORMATS, Colour, DeviceSurface, Layout, Matrix
from edge.sources.memory.colour import colour_of, siting
from edge.sources.memory.nvbufsurface import BLOCK_LINEAR, PITCH, SurfaceInfo

__all__ = ["channels_of", "in_cuda", "layout_of", "linear"]

_TO_NV12 = "convert it: nvvidconv bl-output=false ! video/x-raw(memory:NVMM),format=NV12"

# NvBufSurfaceColorFormat: the format, its matrix, and whether it is full range. For the other
# values GStreamer has no name or this project no conversion.
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


def layout_of(info: SurfaceInfo, caps: Any) -> Layout:
    """The layout by the buffer; the caps add the chroma siting, and the range of grey.

    Raises SourceError for an unsupported format.
    """
    if info.colour_format not in _FORMATS:
        raise SourceError(
            f"NvBufSurfaceColorFormat {info.colour_format} is not supported", _TO_NV12
        )
    if info.layout not in (PITCH, BLOCK_LINEAR):
        raise SourceError(f"NVMM memory of unknown layout {info.layout}", _TO_NV12)
    format, matrix, full_range = _FORMATS[info.colour_format]
    if len(info.pitches) < FORMATS[format].planes:
        raise SourceError(
            f"an NVMM frame in {format} has only {len(info.pitches)} planes", _TO_NV12
        )
    if FORMATS[format].is_rgb:
        colour = Colour()
    elif format == "GRAY8":
        colour = colour_of(caps, source="the NVMM source")
    else:
        site = caps.get_structure(0).get_string("chroma-site")
        colour = Colour(matrix, full_range, *siting(site, full_range))
    return Layout(format, info.width, info.height, colour)


def in_cuda(info: SurfaceInfo, layout: Layout) -> DeviceSurface:
    """A surface in CUDA memory. Raises SourceError."""
    if info.layout != PITCH or not info.data:
        raise SourceError(
            f"unusable CUDA memory: layout {info.layout}, address {info.data:#x}", _TO_NV12
        )
    planes = tuple(info.data + offset for offset in info.offsets)
    return linear(layout, planes, info.pitches)


def linear(layout: Layout, planes: tuple[int, ...], pitches: tuple[int, ...]) -> DeviceSurface:
    """A pitch-linear surface. Raises SourceError if its rows overlap."""
    form = FORMATS[layout.format]
    for plane in range(form.planes):
        _, columns = form.plane_size(plane, layout.width, layout.height)
        if pitches[plane] < columns:
            raise SourceError(
                f"an NVMM frame has a pitch of {pitches[plane]} for rows of {columns} bytes",
                _TO_NV12,
            )
    return DeviceSurface(layout, planes[: form.planes], pitches[: form.planes])


def channels_of(layout: Layout) -> list[int]:
    """The channels of each plane's texture. Raises SourceError for packed formats."""
    form = FORMATS[layout.format]
    if form.is_rgb or (form.down == 1 and form.across == 2):
        raise SourceError(f"block-linear {layout.format} is not supported", _TO_NV12)
    return [
        max(step for where, _, step in form.samples if where == plane)
        for plane in range(form.planes)
    ]
