"""The layout and the colours of a surface by GStreamer's caps, with defaults for missing fields.

The fields are read from the caps themselves. GstVideoInfo fills in missing ones by the size of the
surface, and they can then not be told from given ones: below 577 rows it makes the chroma of YUV
centred, and GStreamer 1.22 ignores a `chroma-site` without a `colorimetry`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from edge.errors import SourceError, require
from edge.preprocess.surface import FORMATS, Colour, Layout, Matrix

__all__ = ["colour_of", "layout_of", "siting"]

_MATRICES: dict[str, Matrix] = {
    "bt601": "bt601",
    "bt709": "bt709",
    "bt2020": "bt2020",
}
# Matrices that are invalid for YUV: as in GStreamer, the size decides then.
_NO_MATRIX = ("unknown", "rgb")
# GstVideoChromaSite
_H_COSITED, _V_COSITED = 2, 4


def layout_of(caps: Any, source: str) -> Layout:
    """The layout that caps of raw video in one of `FORMATS` describe. Raises SourceError."""
    structure = caps.get_structure(0)
    return Layout(
        structure.get_string("format"),
        structure.get_value("width"),
        structure.get_value("height"),
        colour_of(caps, source=source),
    )


def colour_of(caps: Any, *, source: str) -> Colour:
    """The colours of raw video in one of `FORMATS`.

    Without a colorimetry grey is full range and YUV is limited range: BT.601 up to 576 rows,
    BT.2020 from 2160 rows, BT.709 between. Raises SourceError for an unsupported matrix.
    """
    structure = caps.get_structure(0)
    return _colour(
        structure.get_string("format"),
        structure.get_value("height"),
        structure.get_string("colorimetry"),
        structure.get_string("chroma-site"),
        source,
    )


@lru_cache(maxsize=64)
def _colour(
    format: str, height: int, colorimetry: str | None, chroma_site: str | None, source: str
) -> Colour:
    if FORMATS[format].is_rgb:
        return Colour()
    grey = format == "GRAY8"
    matrix, span = _parsed(colorimetry)
    if matrix in _NO_MATRIX or grey:
        matrix = "bt601" if height <= 576 else "bt2020" if height >= 2160 else "bt709"
    if matrix not in _MATRICES:
        raise SourceError(
            f"{source} delivers {matrix} colours, which are not supported",
            "convert them in the pipeline: videoconvert ! video/x-raw,colorimetry=bt709",
        )
    full_range = span == "0-255" or (span == "unknown" and grey)
    return Colour(_MATRICES[matrix], full_range, *siting(chroma_site, full_range))


def _parsed(colorimetry: str | None) -> tuple[str, str]:
    """(matrix, range) by GStreamer's names; "unknown" where the text has none."""
    parsed = require("gi.repository.GstVideo").VideoColorimetry()
    if colorimetry is None or not parsed.from_string(colorimetry):
        return "unknown", "unknown"
    return parsed.matrix.value_nick, parsed.range.value_nick


def siting(chroma_site: str | None, full_range: bool) -> tuple[bool, bool]:
    """Whether chroma is co-sited (across, down), by the `chroma-site` of the caps.

    Without one: centred for full range, as in JPEG; otherwise co-sited across only, the default of
    H.264.
    """
    video = require("gi.repository.GstVideo")
    # The name since GStreamer 1.20, and the one before it.
    parse = getattr(video, "video_chroma_site_from_string", None) or video.video_chroma_from_string
    site = int(parse(chroma_site)) if chroma_site else 0
    if not site:
        return not full_range, False
    return bool(site & _H_COSITED), bool(site & _V_COSITED)
