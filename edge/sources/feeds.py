"""What a reader reads: a source that is opened once, and what opens it again and again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from edge.sources.camera import STALL
from edge.sources.frame import Frame

__all__ = ["Feed", "FrameSource", "Link"]

Link: TypeAlias = Literal["local", "network", "unknown"]  # between a camera and this program


class FrameSource(Protocol):
    """A source that is opened once; `edge.sources.source.Source` is one.

    live      the newest frame wins, older ones are dropped
    camera    it is one, and no film; known once it was opened, even in vain
    dropped   frames that gave way to a newer one before `read` could return them
    interval  seconds between the latest frames that came; None before the second
    link      the frames come from a device here; over a network, whose delay may change; or it is
              unknown from where, and what delay they always have
    """

    live: bool
    camera: bool
    link: Link

    @property
    def dropped(self) -> int: ...

    @property
    def interval(self) -> float | None: ...

    def spacing(self, interval: float) -> float:
        """Seconds between the frames that are wanted, where frames come each `interval` seconds."""

    def __enter__(self) -> object: ...

    def __exit__(self, *exc: object) -> None: ...

    def read(self, timeout: float) -> Frame | None: ...

    def stop(self) -> None: ...


@dataclass(frozen=True)
class Feed:
    """A source that can be opened again and again.

    open     (number of its first frame, seconds to wait for it) -> a source, not yet open
    live     it is a camera, as far as is known before it is open
    keep     open it anew when it ends or fails, if it is a camera
    again    begin it again at its end, if it is no camera
    stall    seconds of silence after which a source has failed; see `StallTimeout`
    """

    name: str
    open: Callable[[int, float], FrameSource]
    live: bool = False
    keep: bool = True
    again: bool = False
    stall: float = STALL
