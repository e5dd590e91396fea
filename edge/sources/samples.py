"""A GStreamer sample becomes a `Frame`, without a copy.

The frame keeps the mapped buffer alive; the buffer is unmapped and returns to its pool when the
last reference is gone.
"""

from __future__ import annotations

from dataclasses import replace
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
    orientation: int = 1,
) -> Frame:
    """The frame in a Gst.Sample, without a copy; `device` reads it if it lies in GPU memory.

    orientation: of EXIF, see `Layout`. Raises SourceError if its caps are not supported, or the
    buffer is smaller than they require.
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
        raise _unsupported(source, caps)
    if orientation != 1:
        surface = replace(surface, layout=replace(surface.layout, orientation=orientation))
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
    """GStreamer's nanoseconds as seconds; None for CLOCK_TIME_NONE.

    GStreamer counts in unsigned 64 bits. When a camera sets its clock to before the start of the
    stream, its times are negative and appear as 585 years.
    """
    if time == gstreamer().CLOCK_TIME_NONE:
        return None
    return (time - 2**64 if time >= 2**63 else time) / 1e9


def _unsupported(source: str, caps: Any) -> SourceError:
    formats = ",".join(FORMATS)
    return SourceError(
        f"{source} delivers {caps.to_string()}, which is not supported",
        f"end the pipeline with: videoconvert ! video/x-raw,format={{{formats}}}",
    )


def _system_surface(buffer: Any, caps: Any, source: str, name: str) -> tuple[Surface, object]:
    """The surface, and the mapped memories in which it lies."""
    structure = caps.get_structure(0)
    if structure.get_string("format") not in FORMATS:
        raise _unsupported(source, caps)
    maps: dict[tuple[int, int], Mapped] = {}
    planes = []
    for plane in planes_of(buffer, caps, name):
        # Planes may lie in separate memories. Each memory is mapped once; GStreamer joins none.
        first, count, start = find_memory(buffer, plane.offset, plane.size)
        if (first, count) not in maps:
            maps[first, count] = Mapped(buffer, first, count)
        planes.append(maps[first, count].view(plane, start))
    return Surface(layout_of(caps, source), tuple(planes)), tuple(maps.values())
