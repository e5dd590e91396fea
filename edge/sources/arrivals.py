"""`arrival_times`: timestamps for frames of web cameras, whose streams carry none."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from edge.sources.probes import NO_TIME, Buffer

__all__ = ["arrival_times"]


def arrival_times(pipeline: Any) -> Callable[[Buffer], bool]:
    """A probe that gives each frame of a web camera a time of its own: that of its arrival.

    GStreamer gives a frame the time of the network block in which it began, and no time to further
    frames of that block. Those get the time at which they were complete. The probe refers to the
    pipeline weakly: see `probe_buffers`.
    """
    running, latest = weakref.ref(pipeline), -1

    def at_parser(buffer: Buffer) -> bool:
        nonlocal latest
        alive = running()
        if alive is not None and (buffer.pts == NO_TIME or buffer.pts <= latest):
            now = alive.get_pipeline_clock().get_time() - alive.get_base_time()
            buffer.pts = max(now, latest + 1)
        latest = buffer.pts
        return True

    return at_parser
