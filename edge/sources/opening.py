"""`feed`: the `Feed` of a camera; `check_camera` finds errors before anything is opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from edge.sources.camera import Camera
from edge.sources.credentials import Access, resolve
from edge.sources.feeds import Feed
from edge.sources.gst import detect_platform
from edge.sources.memory.gpu_reader import GpuReader
from edge.sources.pipelines import pipeline
from edge.sources.source import Source
from edge.sources.uris import is_live

__all__ = ["check_camera", "feed"]

if TYPE_CHECKING:
    from edge.gpu.device import Device


def check_camera(camera: Camera, platform: str | None = None) -> Access:
    """The access to a camera. Raises SourceError if it could never be opened on this machine.

    A device that is only missing now, such as a USB camera, is no error: it may appear later.
    """
    access = resolve(camera.uri, credentials=camera.credentials)
    with access.redacting():
        pipeline(replace(camera, uri=access.uri), platform=platform or detect_platform())
    return access


def feed(
    camera: Camera,
    device: Device | None = None,
    *,
    reconnect: bool = True,
    platform: str | None = None,
    info: Callable[[str], None] = lambda text: None,
) -> Feed:
    """The feed of a camera: it opens the camera as often as needed.

    device     the GPU that reads its frames without a copy
    reconnect  open a live camera again when it ends or fails
    platform   "pc" or "jetson"; by default it is detected
    info       called once with each message about the decoder and the conversions of its frames

    Raises SourceError as `check_camera`.
    """
    access, once = check_camera(camera, platform), lru_cache(maxsize=None)(info)
    live = is_live(access.uri)

    def open_(first: int, wait: float) -> Source:
        gpu = GpuReader(device) if device is not None else None
        return Source(camera, platform=platform, gpu=gpu, first=first, wait=wait, info=once)

    return Feed(
        name=camera.name or access.name,
        open=open_,
        live=live,
        reconnect=reconnect and (live or access.uri.startswith("gst:")),
        loop=camera.loop,
        stall=camera.stall,
    )
