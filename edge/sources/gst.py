"""`gstreamer`: the GStreamer bindings, initialised once; helpers for its pipelines and memory."""

from __future__ import annotations

import ctypes
import os
import threading
from functools import lru_cache
from typing import Any

from edge.errors import MissingPackage, require
from edge.gpu import nvidia

__all__ = ["detect_platform", "gstreamer", "parse_pipeline", "trim_heap"]


_lock = threading.Lock()

_M_ARENA_MAX, _ARENAS = -8, 2  # mallopt(3)


def gstreamer() -> Any:
    """The namespace Gst, initialised on the first call, from any thread.

    Raises MissingPackage with the Debian packages to install.
    """
    with _lock:
        return _initialised()


@lru_cache(maxsize=1)
def _initialised() -> Any:
    gi = require("gi")
    # GStreamer loads libunwind, whose C++ unwinder would shadow the compiler's: in a library
    # that is loaded later, such as onnxruntime, every C++ exception would abort the process.
    ctypes.CDLL("libgcc_s.so.1", mode=ctypes.RTLD_GLOBAL)
    try:
        for namespace in ("Gst", "GstApp", "GstVideo"):
            gi.require_version(namespace, "1.0")
    except ValueError as error:
        raise MissingPackage(
            f"GStreamer's introspection data is missing ({error})",
            "run sudo apt install gir1.2-gstreamer-1.0 gir1.2-gst-plugins-base-1.0",
        ) from error
    gst = require("gi.repository.Gst")
    _share_arenas()
    gst.init(None)
    require("gi.repository.GstApp")  # adds the methods of appsink
    return gst


def parse_pipeline(text: str) -> Any:
    """The Gst.Pipeline of a description in the syntax of gst-launch, not started.

    Raises GLib.Error. In that case Gst.parse_launch would leak the elements linked so far.
    """
    gst = gstreamer()
    return gst.parse_launch_full(text, None, gst.ParseFlags.FATAL_ERRORS)


def trim_heap() -> None:
    """Return the memory of a closed pipeline to the system; this takes about a millisecond.

    Without this and `_share_arenas` the memory of a run grows with each reconnect: docs/chaos.md.
    """
    _glibc("malloc_trim", 0)


def _share_arenas() -> None:
    """Limit glibc to two heaps; its default is up to eight per processor.

    glibc gives new threads their own heaps, and opening a source starts many threads. A single
    allocation that remains keeps its whole heap.
    """
    _glibc("mallopt", _M_ARENA_MAX, _ARENAS)


def _glibc(name: str, *numbers: int) -> None:
    """Call a function of glibc, if it is the C library: musl lacks these functions."""
    function = getattr(ctypes.CDLL(None), name, None)
    if function is not None:
        function(*numbers)


def detect_platform() -> str:
    """ "jetson" where L4T or its GStreamer plugins are installed, else "pc".

    `EDGE_PLATFORM=pc` or `jetson` overrides the detection. A container may have the plugins without
    the release file of L4T.
    """
    if nvidia.is_jetson():
        return "jetson"
    if "EDGE_PLATFORM" in os.environ:
        return "pc"
    return "jetson" if gstreamer().ElementFactory.find("nvvidconv") else "pc"
