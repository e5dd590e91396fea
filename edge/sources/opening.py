"""A camera as the loop wants it: judged before anything is opened, and opened again and again."""

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
    """What opens a camera. Raises SourceError for one that could never be opened on this machine.

    What is only not there yet, such as a USB camera, may come.
    """
    access = resolve(camera.uri, credentials=camera.credentials)
    with access.hidden():
        pipeline(replace(camera, uri=access.uri), platform=platform or detect_platform())
    return access


def feed(
    camera: Camera,
    device: Device | None = None,
    *,
    keep: bool = True,
    platform: str | None = None,
    info: Callable[[str], None] = lambda text: None,
) -> Feed:
    """A camera as the loop wants it: opened anew as often as need be.

    device: the GPU that reads its frames where they lie. keep: go on when it ends or fails. say: is
    told, once, what decodes its pictures and what else is done to them on their way.

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
        keep=keep and (live or access.uri.startswith("gst:")),
        again=camera.loop,
        stall=camera.stall,
    )
