"""`Feed` and `FrameSource`: the interfaces between a source and its reader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from edge.sources.camera import STALL
from edge.sources.frame import Frame

__all__ = ["Feed", "FrameSource", "Link"]

# How frames reach this program: from a device of this machine, or over a network, whose delay may
# change, or in a way that is not known, with a delay that is not known.
Link: TypeAlias = Literal["local", "network", "unknown"]


class FrameSource(Protocol):
    """A source that is opened once; `edge.sources.source.Source` implements it.

    live      newer frames replace older ones
    camera    it is a camera and not a video; known after an attempt to open it, even a failed one
    dropped   frames that a newer one replaced before `read` could return them
    interval  seconds between the latest frames; None before the second
    link      how its frames reach this program
    """

    live: bool
    camera: bool
    link: Link

    @property
    def dropped(self) -> int: ...

    @property
    def interval(self) -> float | None: ...

    def spacing(self, interval: float) -> float:
        """Seconds between wanted frames, if frames come every `interval` seconds."""

    def __enter__(self) -> object: ...

    def __exit__(self, *exc: object) -> None: ...

    def read(self, timeout: float) -> Frame | None: ...

    def stop(self) -> None: ...


@dataclass(frozen=True)
class Feed:
    """A source that can be opened repeatedly.

    open       (number of its first frame, seconds to wait for it) -> a source, not opened yet
    live       it is a camera, as far as that is known before it is opened
    reconnect  if it is a camera, open it again when it ends or fails
    loop       if it is a video, start it over at its end
    stall      stall timeout in seconds, see `edge.run.liveness.StallTimeout`
    """

    name: str
    open: Callable[[int, float], FrameSource]
    live: bool = False
    reconnect: bool = True
    loop: bool = False
    stall: float = STALL
