"""Checks of files that GStreamer reads without an error: truncated ones, and wrongly read ones."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from edge.errors import SourceError

__all__ = ["EBML", "check_complete", "check_supported", "missing_bytes", "vint"]

EBML = b"\x1a\x45\xdf\xa3"  # the first bytes of a Matroska or WebM file


def check_complete(path: Path, name: str) -> None:
    """Raises SourceError if a file that was read to its end is truncated. name: of its source."""
    try:
        missing = missing_bytes(path)
    except OSError:  # the file was removed meanwhile: all of it was read
        return
    if missing:
        raise SourceError(
            f"{name} is truncated: its last {missing} bytes are missing", "copy it again"
        )


def check_supported(path: Path) -> None:
    """Raises SourceError for a file that GStreamer reads wrongly: a GIF, and a PNG of 16-bit RGB.

    Of a GIF it reports neither the times nor the end, and it exchanges the bytes of such a PNG.
    """
    try:
        with path.open("rb") as file:
            start = file.read(26)
    except OSError:  # GStreamer reports it
        return
    if start.startswith(b"GIF8"):
        raise SourceError(
            f"{path} is a GIF: GStreamer reports neither its times nor its end",
            f"convert it: ffmpeg -i {path} -pix_fmt yuv420p out.mp4",
        )
    depth, colour = start[24:25], start[25:26]
    if start.startswith(b"\x89PNG") and depth == b"\x10" and colour in (b"\x02", b"\x06"):
        raise SourceError(
            f"{path} has 16 bits per channel, which GStreamer reads wrongly",
            f"label it with: edge classify ENGINE {path}",
        )


def missing_bytes(path: Path) -> int:
    """How many bytes an MP4, MOV, Matroska or WebM file lacks at its end, by its own headers.

    0 for a complete file, and for one of another kind or of unknown length.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        file.seek(0)
        if start[4:] == b"ftyp":
            return max(0, _end_of_boxes(file, size) - size)
        if start[:4] == EBML:
            return max(0, _end_of_segment(file) - size)
    return 0


def _end_of_boxes(file: IO[bytes], size: int) -> int:
    """Where the last box of ISO/IEC 14496-12 (4.2) ends."""
    end = 0
    while end < size:
        file.seek(end)
        header = file.read(16)
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length < 8:  # 0: up to the end of the file; anything else is not a box
            return size
        end += length
    return end


def _end_of_segment(file: IO[bytes]) -> int:
    """Where Matroska's Segment ends (RFC 8794: element = ID, size, data); 0 if unknown."""
    for _ in range(2):  # the EBML header, then the Segment
        vint(file, keep_marker=True)
        length, unknown = vint(file, keep_marker=False)
        if unknown:
            return 0
        file.seek(length, 1)
    return file.tell()


def vint(file: IO[bytes], *, keep_marker: bool) -> tuple[int, bool]:
    """A variable-length integer, and whether all its bits are 1, which is an unknown size."""
    first = file.read(1)
    if not first or not first[0]:
        return 0, True
    extra = 8 - first[0].bit_length()
    bits = 7 * (extra + 1)
    value = int.from_bytes(first + file.read(extra), "big")
    if keep_marker:
        return value, False
    value &= (1 << bits) - 1
    return value, value == (1 << bits) - 1
