"""`probe_buffers`, `probe_tags`: callbacks for what reaches a pad, on the thread of GStreamer.

Through ctypes: PyGObject before 3.44, as in Debian 12 and JetPack 6, leaks memory for each
callback, and every reconnect needs new callbacks. Here one C callback serves all pads.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from functools import lru_cache
from typing import Any

__all__ = ["NO_TIME", "Buffer", "probe_buffers", "probe_tags"]

NO_TIME = (1 << 64) - 1  # GST_CLOCK_TIME_NONE
_BUFFER, _EVENT = 1 << 4, 1 << 6  # GST_PAD_PROBE_TYPE_BUFFER, _EVENT_DOWNSTREAM
_TAG_EVENT = 80 << 8 | 0b11110  # GST_EVENT_TAG
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
        ("data", ctypes.c_void_p),
    ]


class _Event(ctypes.Structure):
    """The first members of GstEvent."""

    _fields_ = [("mini_object", ctypes.c_byte * 64), ("type", ctypes.c_int)]


_Probe = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(_ProbeInfo), ctypes.c_void_p
)
_Destroy = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def probe_buffers(pad: Any, callback: Callable[[Buffer], bool]) -> None:
    """Call `callback` with each buffer that reaches a Gst.Pad; drop those for which it is False.

    The pad keeps `callback` as long as it lives, so `callback` must not refer to the pad.
    """
    _add_probe(pad, _BUFFER, _c_on_buffer, callback)


def probe_tags(pad: Any, tag: str, callback: Callable[[str], None]) -> None:
    """Call `callback` with each value of a tag, a text, before the first buffer that it describes.

    As for `probe_buffers`, `callback` must not refer to the pad.
    """

    def on_tags(tags: int) -> None:
        value = ctypes.c_void_p()
        if _library().gst_tag_list_get_string_index(tags, tag.encode(), 0, ctypes.byref(value)):
            text = ctypes.string_at(value.value or 0).decode()
            _library().g_free(value)
            callback(text)

    _add_probe(pad, _EVENT, _c_on_event, on_tags)


def _add_probe(pad: Any, kind: int, function: Any, callback: Callable[..., Any]) -> None:
    number = next(_numbers)
    _callbacks[number] = callback
    # hash() of a PyGObject is the pointer that it wraps: here, the GstPad*.
    _library().gst_pad_add_probe(hash(pad), kind, function, number, _c_on_pad_freed)


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL("libgstreamer-1.0.so.0")
    pointer = ctypes.c_void_p
    library.gst_pad_add_probe.argtypes = [pointer, ctypes.c_int, _Probe, pointer, _Destroy]
    library.gst_pad_add_probe.restype = ctypes.c_ulong
    library.gst_event_parse_tag.argtypes = [pointer, ctypes.POINTER(pointer)]
    library.gst_event_parse_tag.restype = None
    library.gst_tag_list_get_string_index.argtypes = [
        *(pointer, ctypes.c_char_p, ctypes.c_uint, ctypes.POINTER(pointer))
    ]
    library.g_free.argtypes, library.g_free.restype = [pointer], None
    return library


# A pad stores a number, not a Python object.
_numbers = itertools.count(1)
_callbacks: dict[int, Callable[..., Any]] = {}


def _on_buffer(_pad: int, info: Any, number: int) -> int:
    buffer = ctypes.cast(info.contents.data, ctypes.POINTER(Buffer)).contents
    return _PASS_ON if _callbacks[number](buffer) else _DROP


def _on_event(_pad: int, info: Any, number: int) -> int:
    event = info.contents.data
    if ctypes.cast(event, ctypes.POINTER(_Event)).contents.type == _TAG_EVENT:
        tags = ctypes.c_void_p()
        _library().gst_event_parse_tag(event, ctypes.byref(tags))
        _callbacks[number](tags.value)
    return _PASS_ON


def _on_pad_freed(number: int, callbacks: dict[int, Callable[..., Any]] = _callbacks) -> None:
    del callbacks[number]  # a default argument: at exit a pad may outlive this module


_c_on_buffer, _c_on_event = _Probe(_on_buffer), _Probe(_on_event)
_c_on_pad_freed = _Destroy(_on_pad_freed)
# Never freed: at exit a remaining pad would call a freed function.
for _function in (_c_on_buffer, _c_on_event, _c_on_pad_freed):
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(_function))
