"""`Camera`: the settings of one source, from the command line or a configuration file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from edge.errors import SourceError
from edge.files.redaction import VARIABLE, redact
from edge.sources.uris import as_uri, is_live, is_network, is_rtsp

__all__ = ["STALL", "Camera", "Thinning", "Transport", "unused_options", "with_unique_names"]

Transport: TypeAlias = Literal["tcp", "udp"]
STALL = 10.0

# The sources to which an option applies.
_APPLIES: dict[str, Callable[[str], bool]] = {
    "realtime": lambda uri: not is_live(uri),
    "loop": lambda uri: not is_live(uri),
    "transport": is_rtsp,
    "credentials": is_network,
}


@dataclass(frozen=True)
class Camera:
    """The settings of one source.

    uri          test://, file://, /dev/video0, v4l2://, csi://, rtsp(s)://, http(s)://, gst:
    name         its name in results; by default the URI without credentials
    every        label every N-th frame; the others are dropped before any work is done on them
    max_fps      label at most this number of frames per second
    stall        seconds without a frame after which a camera is reconnected
    realtime     read a video at its own speed and drop late frames, like a camera
    loop         start a video over at its end
    transport    of RTSP
    credentials  netrc file with users and passwords by host; by default that of EDGE_CREDENTIALS
    """

    uri: str = field(repr=False)  # may hold a password
    name: str = ""
    every: int = 1
    max_fps: float | None = None
    stall: float = STALL
    realtime: bool = False
    loop: bool = False
    transport: Transport = "tcp"
    credentials: str = ""


def with_unique_names(cameras: Iterable[Camera]) -> list[Camera]:
    """The cameras, each with a unique name: the second of the same name gets the suffix #2."""
    found: dict[str, Camera] = {}
    for camera in cameras:
        name = base = camera.name or _name_of(camera.uri)
        count = 1
        while name in found:
            count += 1
            name = f"{base}#{count}"
        found[name] = replace(camera, name=name)
    return list(found.values())


def _name_of(typed: str) -> str:
    return redact(_uri_of(typed) or typed)


def _uri_of(typed: str) -> str:
    """As `as_uri`, but "" for an invalid source: its error is raised when it is opened."""
    try:
        return as_uri(typed)
    except SourceError:
        return ""


def unused_options(cameras: Sequence[Camera]) -> list[str]:
    """The options that were given and apply to none of these cameras.

    A `gst:` pipeline or a `${VARIABLE}` may be any kind of source, so every option applies to it.
    """
    unused = []
    for key, applies in _APPLIES.items():
        default = Camera.__dataclass_fields__[key].default
        uris = [_uri_of(camera.uri) for camera in cameras if getattr(camera, key) != default]
        unknown = any(uri.startswith("gst:") or VARIABLE.match(uri) for uri in uris)
        if uris and not unknown and not any(applies(uri) for uri in uris):
            unused.append(key)
    return unused


class Thinning:
    """Decides which frames of a source are labelled: every N-th, at most `max_fps` per second."""

    def __init__(self, every: int = 1, max_fps: float | None = None):
        self._every = every
        self._period = 0.0 if max_fps is None else 1 / max_fps
        self._due: float | None = None

    def wants(self, number: int, seconds: float) -> bool:
        """number: of the frame, from 0. seconds: its time, on any clock that runs forward."""
        if number % self._every:
            return False
        if not self._period:
            return True
        due = seconds if self._due is None else self._due
        # After a jump of the clock, back or far ahead, the schedule restarts from the new time.
        if not -2 < (seconds - due) / self._period < 2:
            due = seconds
        if seconds < due - self._period * 1e-3:
            return False
        self._due = due + self._period
        return True

    def spacing(self, interval: float) -> float:
        """Seconds between wanted frames, if frames come every `interval` seconds."""
        return max(self._every * interval, self._period)
