"""What a person asks of one source: plain data, from the command line or a configuration file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from edge.errors import SourceError
from edge.sources.uris import VARIABLE, as_uri, is_live, is_network, is_rtsp, redact, redact_address

__all__ = ["STALL", "Camera", "Thinning", "Transport", "unused_options", "with_unique_names"]

Transport: TypeAlias = Literal["tcp", "udp"]
STALL = 10.0

# The sources to which an option means something.
_MEANS: dict[str, Callable[[str], bool]] = {
    "realtime": lambda uri: not is_live(uri),
    "loop": lambda uri: not is_live(uri),
    "transport": is_rtsp,
    "credentials": is_network,
}


@dataclass(frozen=True)
class Camera:
    """One source, as asked for.

    uri        test://, file://, /dev/video0, v4l2://, csi://, rtsp(s)://, http(s)://, gst:
    name       what results call it; by default its URI without credentials
    every      label each N-th frame, and let the others go before anything is spent on them
    max_fps    label at most so many frames a second
    stall      seconds without a frame after which a camera is opened anew
    realtime   play a file at its own speed, the newest frame first, like a camera
    loop       begin a file again at its end
    transport  of RTSP
    credentials  netrc file with users and passwords by host; by default EDGE_CREDENTIALS names it
    """

    uri: str = field(repr=False)  # there may be a password in it
    name: str = ""
    every: int = 1
    max_fps: float | None = None
    stall: float = STALL
    realtime: bool = False
    loop: bool = False
    transport: Transport = "tcp"
    credentials: str = ""


def with_unique_names(cameras: Iterable[Camera]) -> list[Camera]:
    """The cameras, each with a name of its own: of the same one twice, the second is called #2."""
    found: dict[str, Camera] = {}
    for camera in cameras:
        name = first = camera.name or _name_of(camera.uri)
        same = 1
        while name in found:
            same += 1
            name = f"{first}#{same}"
        found[name] = replace(camera, name=name)
    return list(found.values())


def _name_of(typed: str) -> str:
    uri = _uri_of(typed)
    return redact_address(typed) if uri == "" else redact(uri)


def _uri_of(typed: str) -> str:
    """As `as_uri`, but "" for what it refuses: that is raised again where it is opened."""
    try:
        return as_uri(typed)
    except SourceError:
        return ""


def unused_options(cameras: Sequence[Camera]) -> list[str]:
    """The keys that were asked for and mean nothing to any of these cameras.

    A `gst:` pipeline may be anything, and so may what a `${VARIABLE}` stands for.
    """
    found = []
    for key, means in _MEANS.items():
        usual = Camera.__dataclass_fields__[key].default
        asked = [_uri_of(camera.uri) for camera in cameras if getattr(camera, key) != usual]
        unknown = any(uri.startswith("gst:") or VARIABLE.match(uri) for uri in asked)
        if asked and not unknown and not any(means(uri) for uri in asked):
            found.append(key)
    return found


class Thinning:
    """Which frames of a source are wanted: each N-th, and at most so many a second."""

    def __init__(self, every: int = 1, max_fps: float | None = None):
        self._every = every
        self._period = 0.0 if max_fps is None else 1 / max_fps
        self._due: float | None = None

    def wants(self, number: int, seconds: float) -> bool:
        """number: the frame's place among all, from 0; seconds: on any clock that goes forward."""
        if number % self._every:
            return False
        if not self._period:
            return True
        due = seconds if self._due is None else self._due
        # A clock that went back, or on by a long way, begins anew; else rates would be off by it.
        if not -2 < (seconds - due) / self._period < 2:
            due = seconds
        if seconds < due - self._period * 1e-3:
            return False
        self._due = due + self._period
        return True

    def spacing(self, interval: float) -> float:
        """Seconds between frames that are wanted, of a source whose frames are `interval` apart."""
        return max(self._every * interval, self._period)
