"""GStreamer's buffers: the position of planes, mapping for reading, and notification when freed.

Through ctypes: the map of PyGObject copies the bytes, and it has no weak references to memory.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from edge.errors import SourceError, require
from edge.preprocess.surface import FORMATS

__all__ = ["READ", "Mapped", "MemoryWatch", "Plane", "find_memory", "planes_of"]

READ = 1  # GST_MAP_READ
_ALL = -1  # as a count: all memories of a buffer


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


class Plane(NamedTuple):
    """The position of a plane: its offset in the buffer and the pitch of its rows, in bytes."""

    offset: int
    pitch: int
    rows: int
    columns: int

    @property
    def size(self) -> int:
        return self.pitch * (self.rows - 1) + self.columns


def planes_of(buffer: Any, caps: Any, name: str) -> list[Plane]:
    """The planes of a frame in one of `FORMATS`, by the GstVideoMeta of the buffer or its caps.

    name: of the frame, for the message. Raises SourceError if the buffer is too small for them.
    """
    video = require("gi.repository.GstVideo")
    info = video.VideoInfo.new_from_caps(caps)
    # The meta, if any, describes this very buffer; the caps only imply a layout.
    where = video.buffer_get_video_meta(buffer) or info
    form = FORMATS[info.finfo.name]
    planes = []
    for index in range(form.planes):
        size = form.plane_size(index, info.width, info.height)
        plane = Plane(where.offset[index], where.stride[index], *size)
        if plane.pitch < plane.columns or plane.offset + plane.size > buffer.get_size():
            raise SourceError(
                f"{name} is too small for {info.width}x{info.height} {info.finfo.name} pixels",
                "check the element that produces the frames",
            )
        planes.append(plane)
    return planes


_Notify = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)  # GstMiniObjectNotify


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL("libgstreamer-1.0.so.0")
    pointer, number = ctypes.c_void_p, ctypes.c_uint
    info = ctypes.POINTER(_MapInfo)
    library.gst_buffer_map_range.argtypes = [pointer, number, ctypes.c_int, info, ctypes.c_int]
    library.gst_buffer_map_range.restype = ctypes.c_int
    library.gst_buffer_unmap.argtypes = [pointer, info]
    library.gst_buffer_unmap.restype = None
    library.gst_buffer_find_memory.argtypes = [
        pointer,
        ctypes.c_size_t,
        ctypes.c_size_t,
        ctypes.POINTER(number),
        ctypes.POINTER(number),
        ctypes.POINTER(ctypes.c_size_t),
    ]
    library.gst_buffer_find_memory.restype = ctypes.c_int
    library.gst_mini_object_weak_ref.argtypes = [pointer, _Notify, pointer]
    library.gst_mini_object_weak_ref.restype = None
    return library


def find_memory(buffer: Any, offset: int, size: int) -> tuple[int, int, int]:
    """The memories with `size` bytes from `offset`: (first memory, count, offset in it).

    The caller has checked that the buffer is large enough.
    """
    first, count, skip = ctypes.c_uint(), ctypes.c_uint(), ctypes.c_size_t()
    _library().gst_buffer_find_memory(
        hash(buffer), offset, size, ctypes.byref(first), ctypes.byref(count), ctypes.byref(skip)
    )
    return first.value, count.value, skip.value


class Mapped:
    """Memories of a Gst.Buffer, mapped for reading as long as this object lives.

    Mapping several memories at once makes GStreamer join them, which copies; a single one is not
    copied.

    memory  address of the GstMemory
    data    address of its first byte
    size    in bytes
    """

    def __init__(self, buffer: Any, first: int = 0, count: int = _ALL, flags: int = READ) -> None:
        """Raises SourceError if the buffer cannot be mapped."""
        self._info = _MapInfo()
        # hash() of a PyGObject boxed value is the pointer it wraps: here, the GstBuffer*.
        mapped = _library().gst_buffer_map_range(
            hash(buffer), first, count, ctypes.byref(self._info), flags
        )
        if not mapped:
            raise SourceError(
                "a frame cannot be mapped for reading (gst_buffer_map_range)",
                "end the pipeline in system memory: videoconvert ! video/x-raw",
            )
        self._buffer = buffer  # set only once mapped: __del__ unmaps what is set
        self.memory: int = self._info.memory
        self.data: int = self._info.data
        self.size: int = self._info.size

    def __del__(self) -> None:
        if hasattr(self, "_buffer"):
            _library().gst_buffer_unmap(hash(self._buffer), ctypes.byref(self._info))

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {"version": 3, "typestr": "|u1", "shape": (self.size,), "data": (self.data, True)}

    def view(self, plane: Plane, offset: int) -> npt.NDArray[np.uint8]:
        """A plane from byte `offset` on: uint8 [rows, columns], read-only; keeps this alive."""
        memory: npt.NDArray[np.uint8] = np.asarray(self)
        view: npt.NDArray[np.uint8] = np.ndarray(
            (plane.rows, plane.columns), np.uint8, memory, offset, (plane.pitch, 1)
        )
        return view


class MemoryWatch:
    """Calls `freed(memory)` when a watched GstMemory is freed, while its bytes still exist.

    The call comes on the thread that frees it, any of GStreamer's.
    """

    def __init__(self, freed: Callable[[int], None]) -> None:
        self._freed = freed
        self._watched: set[int] = set()
        self._token = next(_tokens)
        _watches[self._token] = self

    def add(self, memory: int) -> None:
        """Watch the GstMemory at this address until it is freed; repeated calls do nothing."""
        if memory not in self._watched:
            self._watched.add(memory)
            _library().gst_mini_object_weak_ref(memory, _c_on_freed, self._token)

    def _on_freed(self, memory: int) -> None:
        self._watched.discard(memory)
        self._freed(memory)


# A memory may outlive its watch, so GStreamer stores a number, not a Python object.
_tokens = itertools.count(1)
_watches: WeakValueDictionary[int, MemoryWatch] = WeakValueDictionary()


def _on_freed(token: int, memory: int) -> None:
    watch = _watches.get(token)
    if watch is not None:
        watch._on_freed(memory)


_c_on_freed = _Notify(_on_freed)
