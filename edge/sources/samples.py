"""A GStreamer sample becomes a `Frame`, without a copy.

The frame keeps the mapped buffer alive; the buffer is unmapped and returns to its pool when the
last reference is gone.
"""

from __future__ import annotations

from typing import Any

from edge.errors import SourceError
from edge.preprocess.surface import FORMATS, DeviceSurface, Surface
from edge.sources.frame import DeviceReader, Frame, FramePath
from edge.sources.gst import gstreamer
from edge.sources.memory.colour import layout_of
from edge.sources.memory.mapping import Mapped, find_memory, planes_of

__all__ = ["frame_from_sample", "stream_seconds"]


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
