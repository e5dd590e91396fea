"""One picture from a source, as a view on the memory GStreamer wrote it to.

Nothing is copied: the array keeps the mapped buffer alive, and the buffer is unmapped and goes
back to its pool when the last array on it is gone.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from edge.errors import SourceError, require
from edge.gst import gstreamer

__all__ = ["Frame", "frame_from_sample"]

_MAP_READ = 1  # GST_MAP_READ


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture.

    source    the name of its source, without credentials
    number    its place among the frames the source produced, from 0; a dropped frame leaves a gap
    pts       stream time in seconds, or None when the source gives none
    captured  `time.monotonic()` seconds at which the picture was at the source
    pixels    uint8 RGB [H, W, 3], read-only; rows may be padded, so it need not be contiguous
    """

    source: str
    number: int
    pts: float | None
    captured: float
    pixels: np.ndarray


def frame_from_sample(sample: Any, *, source: str, number: int, captured: float) -> Frame:
    """The RGB picture in a Gst.Sample, without copying it.

    Raises SourceError when the caps are not RGB, or the buffer is smaller than its caps say.
    """
    gst = gstreamer()
    video = require("gi.repository.GstVideo")
    buffer, caps = sample.get_buffer(), sample.get_caps()
    info = video.VideoInfo.new_from_caps(caps)
    if info is None or info.finfo.name != "RGB":
        raise SourceError(
            f"{source} delivers {caps.to_string()}, not RGB",
            "end the pipeline with: videoconvert ! video/x-raw,format=RGB",
        )
    # The meta, where there is one, says how this very buffer is laid out; the caps only imply it.
    layout = video.buffer_get_video_meta(buffer) or info
    stride, offset = layout.stride[0], layout.offset[0]
    height, width = info.height, info.width
    if offset + stride * (height - 1) + 3 * width > buffer.get_size():
        raise SourceError(
            f"frame {number} of {source} is too small for {width}x{height} pixels",
            "check the element that produces the frames",
        )
    mapped = _Mapped(buffer, (height, width, 3), (stride, 3, 1), offset)
    pts = sample.get_segment().to_stream_time(gst.Format.TIME, buffer.pts)
    return Frame(
        source=source,
        number=number,
        pts=None if pts == gst.CLOCK_TIME_NONE else pts / gst.SECOND,
        captured=captured,
        pixels=np.asarray(mapped),
    )


class _MapInfo(ctypes.Structure):
    """GstMapInfo: 104 bytes on 64-bit systems."""

    _fields_ = [
        ("memory", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("maxsize", ctypes.c_size_t),
        ("user_data", ctypes.c_void_p * 4),
        ("_reserved", ctypes.c_void_p * 4),
    ]


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL("libgstreamer-1.0.so.0")
    library.gst_buffer_map.argtypes = [ctypes.c_void_p, ctypes.POINTER(_MapInfo), ctypes.c_int]
    library.gst_buffer_map.restype = ctypes.c_int
    library.gst_buffer_unmap.argtypes = [ctypes.c_void_p, ctypes.POINTER(_MapInfo)]
    library.gst_buffer_unmap.restype = None
    return library


class _Mapped:
    """A buffer mapped for reading; numpy's arrays on it hold it as their base.

    Through ctypes, because PyGObject's own map copies the pixels into a bytes object.
    """

    def __init__(
        self, buffer: Any, shape: tuple[int, ...], strides: tuple[int, ...], offset: int
    ) -> None:
        self._info = _MapInfo()
        # hash() of a PyGObject boxed value is the pointer it wraps: here, the GstBuffer*.
        if not _library().gst_buffer_map(hash(buffer), ctypes.byref(self._info), _MAP_READ):
            raise SourceError(
                "gst_buffer_map refused a frame for reading",
                "end the pipeline in system memory: videoconvert ! video/x-raw,format=RGB",
            )
        self._buffer = buffer  # set only once mapped: __del__ unmaps what is set
        self.__array_interface__ = {
            "version": 3,
            "typestr": "|u1",
            "shape": shape,
            "strides": strides,
            "data": (self._info.data + offset, True),  # True: read-only
        }

    def __del__(self) -> None:
        if hasattr(self, "_buffer"):
            _library().gst_buffer_unmap(hash(self._buffer), ctypes.byref(self._info))
