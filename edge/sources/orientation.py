"""`watch_orientation`: how the frames of a source are turned, by its file and GStreamer's tags."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

from edge.preprocess.images import exif_orientation
from edge.sources.containers import EBML, vint
from edge.sources.probes import probe_tags

__all__ = ["orientation_of", "watch_orientation"]

# Matroska's elements (RFC 9559).
_SEGMENT, _TRACKS = 0x18538067, 0x1654AE6B
_TRACK, _DEFAULT, _VIDEO, _PROJECTION, _ROLL = 0xAE, 0x88, 0xE0, 0x7670, 0x7675
_MOST_ELEMENTS = 10_000  # that are read at one level, of a long or a damaged file
# Counter-clockwise degrees -> EXIF's orientation.
_ORIENTATIONS = {0.0: 1, 90.0: 8, 180.0: 3, 270.0: 6}
# The values of GStreamer's tag image-orientation, of videos and JPEGs -> EXIF's orientation.
_TAGS = {
    **{"rotate-0": 1, "flip-rotate-0": 2, "rotate-180": 3, "flip-rotate-180": 4},
    **{"flip-rotate-270": 5, "rotate-90": 6, "flip-rotate-90": 7, "rotate-270": 8},
}


def watch_orientation(pad: Any, file: Path | None) -> deque[int]:
    """EXIF's orientation of the next buffer at a Gst.Pad, updated by the tags that reach it.

    file: that the frames come from, if they do.
    """
    latest = deque([1 if file is None else orientation_of(file)], maxlen=1)
    probe_tags(pad, "image-orientation", lambda value: latest.append(_TAGS.get(value, 1)))
    return latest


def orientation_of(path: Path) -> int:
    """EXIF's orientation of an image, or of the default video of a Matroska or WebM file.

    GStreamer ignores Matroska's ProjectionPoseRoll and most images' EXIF. It reports the rotation
    of MP4 and MOV files.
    """
    try:
        with path.open("rb") as file:
            if file.read(4) == EBML:
                return _orientation(file, path.stat().st_size)
    except OSError:  # GStreamer reports it
        return 1
    return exif_orientation(path)


def _orientation(file: IO[bytes], size: int) -> int:
    """That of the video that `launch` reads: the first default one, else the first."""
    found = [
        (_number(file, start, end, _DEFAULT, otherwise=1) == 0, begin, stop)
        for start, end in _find(file, 0, size, _SEGMENT, _TRACKS, _TRACK)
        for begin, stop in _find(file, start, end, _VIDEO)
    ]
    if not found:
        return 1
    _, start, end = min(found, key=lambda video: video[0])
    for begin, stop in _find(file, start, end, _PROJECTION, _ROLL):
        file.seek(begin)
        data = file.read(min(stop - begin, 8))
        if len(data) in (4, 8):
            (degrees,) = struct.unpack({4: ">f", 8: ">d"}[len(data)], data)
            return _ORIENTATIONS.get(degrees % 360, 1)
    return 1


def _number(file: IO[bytes], start: int, end: int, identity: int, *, otherwise: int) -> int:
    """An unsigned integer among the elements between two places of a file."""
    for begin, stop in _find(file, start, end, identity):
        file.seek(begin)
        return int.from_bytes(file.read(min(stop - begin, 8)), "big")
    return otherwise


def _find(file: IO[bytes], start: int, end: int, *path: int) -> Iterator[tuple[int, int]]:
    """Start and end of the data of each element at a path of IDs."""
    for identity, begin, stop in islice(_elements(file, start, end), _MOST_ELEMENTS):
        if identity == path[0] and len(path) == 1:
            yield begin, stop
        elif identity == path[0]:
            yield from _find(file, begin, stop, *path[1:])


def _elements(file: IO[bytes], start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """ID, and start and end of the data, of the elements between two places of a file."""
    while start < end:
        file.seek(start)
        identity, _ = vint(file, keep_marker=True)
        length, unknown = vint(file, keep_marker=False)
        begin = file.tell()
        if not identity or begin <= start:
            return
        start = end if unknown else min(end, begin + length)
        yield identity, begin, start
