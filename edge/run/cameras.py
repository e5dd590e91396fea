"""What a person asks of one source: plain data, from the command line or a configuration file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["STALL", "Camera", "Transport"]

Transport: TypeAlias = Literal["tcp", "udp"]
STALL = 10.0


@dataclass(frozen=True)
class Camera:
    """One source, as asked for.

    uri        test://, file://, /dev/video0, v4l2://, csi://, rtsp://, http(s)://, gst:
    name       what results call it; by default its URI without credentials
    every      label each N-th frame, and let the others go before anything is spent on them
    max_fps    label at most so many frames a second
    stall      seconds without a frame after which a camera is opened anew
    realtime   play a file at its own speed, the newest frame first, like a camera
    loop       begin a file again at its end
    transport  of RTSP
    """

    uri: str
    name: str = ""
    every: int = 1
    max_fps: float | None = None
    stall: float = STALL
    realtime: bool = False
    loop: bool = False
    transport: Transport = "tcp"
