"""One picture from a source, as a view on the memory GStreamer wrote it to.

Nothing is copied: the frame keeps the mapped buffer alive, and the buffer is unmapped and goes
back to its pool when the last that looks at it is gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from edge.errors import SourceError
from edge.gst import gstreamer
from edge.preprocess.colour import to_rgb
from edge.preprocess.surface import FORMATS, DeviceSurface, Surface
from edge.run.memory.colour import layout_of
from edge.run.memory.mapping import Mapped, find_memory, planes_of

__all__ = ["DeviceReader", "Frame", "FramePath", "frame_from_sample", "stream_seconds"]

# Where a frame's bytes lie, and how the GPU gets at them.
FramePath: TypeAlias = Literal["system", "nvmm-pitch", "nvmm-block-linear", "nvmm-cuda", "cuda"]


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture.

    source    the name of its source, without credentials
    number    its place among the frames the source produced, from 0; a dropped frame leaves a gap
    pts       stream time in seconds, or None when the source gives none
    captured  `time.monotonic()` seconds at which the picture was at the source
    path      the memory it lies in
    surface   the picture: its format, size and colours, and where its planes are
    owner     keeps the memory of `surface` alive: hold it until the GPU has read what it was given
    reader    brings a picture from the GPU's memory
    live      newer ones follow, whether it is used or not
    """

    source: str
    number: int
    pts: float | None
    captured: float
    path: FramePath
    surface: Surface | DeviceSurface
    owner: object = None
    reader: DeviceReader | None = None
    live: bool = False

    @property
    def picture(self) -> Surface:
        """The picture in memory that the CPU reads; of one in the GPU's memory a copy each time.

        Raises SourceError for one that cannot be brought from there.
        """
        if isinstance(self.surface, Surface):
            return self.surface
        assert self.reader is not None  # which made the surface
        return self.reader.download(self.surface)

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """The picture for people's eyes: RGB uint8 [H, W, 3], read-only, of any row stride.

        Of packed RGB in any order it is a view, of other formats a new array each time.
        Raises SourceError for a picture that cannot be brought from the GPU's memory.
        """
        pixels = to_rgb(self.picture)
        pixels.flags.writeable = False
        return pixels


class DeviceReader(Protocol):
    """Reads samples whose memory is the GPU's."""

    def surface(self, sample: Any) -> tuple[DeviceSurface, FramePath, object]:
        """The picture, the path, and what must live while the GPU may read it.

        Raises SourceError.
        """

    def download(self, surface: DeviceSurface) -> Surface:
        """A copy of a picture in memory that the CPU reads. Raises SourceError."""


def frame_from_sample(
    sample: Any,
    *,
    source: str,
    number: int,
    captured: float,
    device: DeviceReader | None = None,
    live: bool = False,
) -> Frame:
    """The picture in a Gst.Sample, without copying it; `device` reads it if the GPU has it.

    Raises SourceError when nothing here reads such caps, or the buffer is smaller than they say.
    """
    gst = gstreamer()
    caps = sample.get_caps()
    features = caps.get_features(0)
    kinds = {features.get_nth(index) for index in range(features.get_size())}
    surface: Surface | DeviceSurface
    path: FramePath
    if not any(kind.startswith("memory:") for kind in kinds - {"memory:SystemMemory"}):
        name = f"frame {number} of {source}"
        surface, owner = _system_surface(sample.get_buffer(), caps, source, name)
        path = "system"
    elif device is not None:
        surface, path, owner = device.surface(sample)
    else:
        raise _unread(source, caps)
    segment, pts = sample.get_segment(), None
    if segment.format == gst.Format.TIME:
        pts = stream_seconds(segment.to_stream_time(gst.Format.TIME, sample.get_buffer().pts))
    return Frame(
        source=source,
        number=number,
        pts=None if pts is None or pts < 0 else pts,
        captured=captured,
        path=path,
        surface=surface,
        owner=owner,
        reader=device,
        live=live,
    )


def stream_seconds(time: int) -> float | None:
    """Of GStreamer's nanoseconds; None where it has none.

    It counts in 64 bits without a sign: a camera that sets its clock to before the stream began
    gets times of 585 years, which are those below zero.
    """
    if time == gstreamer().CLOCK_TIME_NONE:
        return None
    return (time - 2**64 if time >= 2**63 else time) / 1e9


def _unread(source: str, caps: Any) -> SourceError:
    formats = ",".join(FORMATS)
    return SourceError(
        f"{source} delivers {caps.to_string()}, which nothing here reads",
        f"end the pipeline with: videoconvert ! video/x-raw,format={{{formats}}}",
    )


def _system_surface(buffer: Any, caps: Any, source: str, name: str) -> tuple[Surface, object]:
    """The picture, and the maps it lies in."""
    structure = caps.get_structure(0)
    if structure.get_string("format") not in FORMATS:
        raise _unread(source, caps)
    maps: dict[tuple[int, int], Mapped] = {}
    planes = []
    for plane in planes_of(buffer, caps, name):
        # Planes may lie in memories of their own; each is mapped once, and none is joined.
        first, count, start = find_memory(buffer, plane.offset, plane.size)
        if (first, count) not in maps:
            maps[first, count] = Mapped(buffer, first, count)
        planes.append(maps[first, count].view(plane, start))
    return Surface(layout_of(caps, source), tuple(planes)), tuple(maps.values())
