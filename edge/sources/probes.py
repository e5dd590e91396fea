"""`probe_buffers`: a callback for every buffer that reaches a pad, on the thread of GStreamer.

Through ctypes: PyGObject before 3.44, as in Debian 12 and JetPack 6, leaks memory for each
callback, and every reconnect needs new callbacks. Here one C callback serves all pads.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from functools import lru_cache
from typing import Any

__all__ = ["NO_TIME", "Buffer", "probe_buffers"]

NO_TIME = (1 << 64) - 1  # GST_CLOCK_TIME_NONE
_BUFFER = 1 << 4  # GST_PAD_PROBE_TYPE_BUFFER
_DROP, _PASS_ON = 0, 1  # GstPadProbeReturn


class Buffer(ctypes.Structure):
    """GstBuffer, on 64-bit systems: times in nanoseconds, or `NO_TIME`."""

    _fields_ = [
        ("mini_object", ctypes.c_byte * 64),
        ("pool", ctypes.c_void_p),
        ("pts", ctypes.c_uint64),
        ("dts", ctypes.c_uint64),
        ("duration", ctypes.c_uint64),
        ("offset", ctypes.c_uint64),
        ("offset_end", ctypes.c_uint64),
    ]


class _ProbeInfo(ctypes.Structure):
    """The first members of GstPadProbeInfo."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("id", ctypes.c_ulong),
        ("data", ctypes.POINTER(Buffer)),
    ]


_Probe = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(_ProbeInfo), ctypes.c_void_p
)
_Destroy = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def probe_buffers(pad: Any, callback: Callable[[Buffer], bool]) -> None:
    """Call `callback` with each buffer that reaches a Gst.Pad; drop those for which it is False.

    The pad keeps `callback` as long as it lives, so `callback` must not refer to the pad.
    """
    number = next(_numbers)
    _callbacks[number] = callback
    # hash() of a PyGObject is the pointer that it wraps: here, the GstPad*.
    _library().gst_pad_add_probe(hash(pad), _BUFFER, _c_on_buffer, number, _c_on_pad_freed)


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL("libgstreamer-1.0.so.0")
    pointer = ctypes.c_void_p
    library.gst_pad_add_probe.argtypes = [pointer, ctypes.c_int, _Probe, pointer, _Destroy]
    library.gst_pad_add_probe.restype = ctypes.c_ulong
    return library


# A pad stores a number, not a Python object.
_numbers = itertools.count(1)
_callbacks: dict[int, Callable[[Buffer], bool]] = {}


def _on_buffer(_pad: int, info: Any, number: int) -> int:
    return _PASS_ON if _callbacks[number](info.contents.data.contents) else _DROP


def _on_pad_freed(number: int, callbacks: dict[int, Callable[[Buffer], bool]] = _callbacks) -> None:
    del callbacks[number]  # a default argument: at exit a pad may outlive this module


_c_on_buffer, _c_on_pad_freed = _Probe(_on_buffer), _Destroy(_on_pad_freed)
# Never freed: at exit a remaining pad would call a freed function.
for _function in (_c_on_buffer, _c_on_pad_freed):
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(_function))
