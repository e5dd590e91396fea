"""GStreamer for Python, initialised once; everything that uses it gets it here."""

from __future__ import annotations

import ctypes
import os
import threading
from functools import lru_cache
from typing import Any

from edge.errors import MissingPackage, require
from edge.gpu import nvidia

__all__ = ["detect_platform", "give_back", "gstreamer", "pipeline_of"]


_lock = threading.Lock()

_M_ARENA_MAX, _ARENAS = -8, 2  # mallopt(3)


def gstreamer() -> Any:
    """The namespace Gst, initialised once, by whichever thread comes first.

    Raises MissingPackage with the Debian packages to install.
    """
    with _lock:
        return _initialised()


@lru_cache(maxsize=1)
def _initialised() -> Any:
    gi = require("gi")
    # GStreamer brings libunwind, whose C++ unwinder would shadow the compiler's own: in a library
    # loaded later, such as onnxruntime, every C++ exception would then abort the process.
    ctypes.CDLL("libgcc_s.so.1", mode=ctypes.RTLD_GLOBAL)
    try:
        for namespace in ("Gst", "GstApp", "GstVideo"):
            gi.require_version(namespace, "1.0")
    except ValueError as error:
        raise MissingPackage(
            f"GStreamer's description for Python is missing ({error})",
            "run sudo apt install gir1.2-gstreamer-1.0 gir1.2-gst-plugins-base-1.0",
        ) from error
    gst = require("gi.repository.Gst")
    _share_arenas()
    gst.init(None)
    require("gi.repository.GstApp")  # gives the sink its methods
    return gst


def pipeline_of(text: str) -> Any:
    """The Gst.Pipeline that a text describes, as gst-launch writes it, not started yet.

    Raises GLib.Error. Gst.parse_launch would, with that, leave for ever what it had linked by then.
    """
    gst = gstreamer()
    return gst.parse_launch_full(text, None, gst.ParseFlags.FATAL_ERRORS)


def give_back() -> None:
    """Give the system the memory that a closed pipeline has left; it takes about a millisecond.

    Without this and `_share_arenas` a run grows while its cameras come and go: docs/chaos.md.
    """
    _glibc("malloc_trim", 0)


def _share_arenas() -> None:
    """Have two heaps, and not up to eight for each processor.

    glibc gives new threads heaps of their own, and each opening starts many threads. What lives on
    in a heap keeps all of it.
    """
    _glibc("mallopt", _M_ARENA_MAX, _ARENAS)


def _glibc(name: str, *numbers: int) -> None:
    """Call a function of glibc, if that is the C library: musl has none of these."""
    function = getattr(ctypes.CDLL(None), name, None)
    if function is not None:
        function(*numbers)


def detect_platform() -> str:
    """Say "jetson" where L4T or its GStreamer plugins are installed, else "pc".

    `EDGE_PLATFORM=pc` or `jetson` decides it by hand. In a container the plugins may be there
    without L4T's release file.
    """
    if nvidia.is_jetson():
        return "jetson"
    if "EDGE_PLATFORM" in os.environ:
        return "pc"
    return "jetson" if gstreamer().ElementFactory.find("nvvidconv") else "pc"
