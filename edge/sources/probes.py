"""Every buffer that comes to a pad, seen on GStreamer's own thread.

Through ctypes: PyGObject before 3.44, which Debian 12 and JetPack 6 have, never frees what it makes
for a callback, and a camera that is opened anew needs new ones. Here there is one for all pads.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from functools import lru_cache
from typing import Any

__all__ = ["Buffer", "see_buffers"]

_BUFFER = 1 << 4  # GST_PAD_PROBE_TYPE_BUFFER
_DROP, _PASS_ON = 0, 1  # GstPadProbeReturn


class Buffer(ctypes.Structure):
    """GstBuffer, on 64-bit systems: times in nanoseconds, or CLOCK_TIME_NONE."""

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
    """The beginning of GstPadProbeInfo."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("id", ctypes.c_ulong),
        ("data", ctypes.POINTER(Buffer)),
    ]


_Probe = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(_ProbeInfo), ctypes.c_void_p
)
_Destroy = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def see_buffers(pad: Any, see: Callable[[Buffer], bool]) -> None:
    """Have `see` called with each buffer that comes to a Gst.Pad; it is dropped on False.

    The pad keeps `see` for as long as it lives: what that refers to must not refer to the pad.
    """
    number = next(_numbers)
    _seeing[number] = see
    # hash() of a PyGObject is the pointer that it wraps: here, the GstPad*.
    _library().gst_pad_add_probe(hash(pad), _BUFFER, _tell, number, _forget)


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL("libgstreamer-1.0.so.0")
    pointer = ctypes.c_void_p
    library.gst_pad_add_probe.argtypes = [pointer, ctypes.c_int, _Probe, pointer, _Destroy]
    library.gst_pad_add_probe.restype = ctypes.c_ulong
    return library


# A pad is given a number, and no Python object.
_numbers = itertools.count(1)
_seeing: dict[int, Callable[[Buffer], bool]] = {}


def _seen(_pad: int, info: Any, number: int) -> int:
    return _PASS_ON if _seeing[number](info.contents.data.contents) else _DROP


def _ended(number: int, seeing: dict[int, Callable[[Buffer], bool]] = _seeing) -> None:
    del seeing[number]  # a pad may end after this module, at the end of the program


_tell, _forget = _Probe(_seen), _Destroy(_ended)
# Never freed: at the end of the program a pad that is still there would call what is gone.
for _callback in (_tell, _forget):
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(_callback))
