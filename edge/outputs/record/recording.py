"""Labelled video: what the engine says is drawn under each frame, and encoded as it comes.

    the loop's thread        leaves each result, and goes on
    one thread for drawing   copies the picture with its words, at a lower priority
    GStreamer's threads      encode and write, one pipeline per source

A camera waits for nobody: what the encoder or the disk cannot keep up with is left out and counted.
A source that can wait does, as a film that is read faster than it is encoded, and loses nothing.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Protocol

from edge.errors import OptionError
from edge.outputs.preview import caption_lines
from edge.outputs.record.overlay import READABLE, captioned, enlarged
from edge.outputs.record.rtsp import RtspServer, address
from edge.outputs.record.video_files import VideoFiles, place_of
from edge.outputs.record.worker import Worker
from edge.preprocess.surface import Surface
from edge.run.interfaces import Result, Sink
from edge.run.status import Transition
from edge.sources.frame import Frame
from edge.sources.uris import redact_address

__all__ = ["Outlet", "Recording", "check_record", "record"]

_SERVED = "rtsp://"
_ROOM = 2  # frames of one source that wait to be drawn: each holds its camera's buffer
# Seconds for the films' ends. They and all that the end of a run waits for besides must be less
# than systemd waits, TimeoutStopSec; a film without its end plays nevertheless.
_PATIENCE = 4.0


class Outlet(Protocol):
    """Where labelled pictures go. Called on one thread, the one that draws.

    lost  pictures that were left out; read from any thread
    """

    lost: int

    def take(self, frame: Frame, draw: Callable[[], Surface]) -> None:
        """Show what `draw` makes of a frame, or leave it out. Draws only if it is shown.

        May wait for a frame that is not live, for seconds at most.
        """

    def end(self, source: str) -> None:
        """Nothing comes from this source any more."""

    def close(self) -> None:
        """Finish what was begun."""


class Recording(Sink):
    """Hands labelled pictures of all sources to an outlet, which it owns."""

    def __init__(self, outlet: Outlet, stop: threading.Event, warn: Callable[[str], None]):
        """stop: no source waits any more. warn: is told at the end how many frames are missing."""
        self._outlet = outlet
        self._stop = stop
        self._warn = warn
        self._background: Worker[Result | Transition | None] = Worker(
            "recording", self._work, _ROOM, _PATIENCE, warn
        )

    @property
    def lost(self) -> int:
        """Pictures that are not in the video: too slow an encoder, or a full disk."""
        return self._background.lost + self._outlet.lost

    def write(self, result: Result) -> None:
        until = None if result.frame.live else self._stop
        self._background.put(result.frame.source, result, until)

    def changed(self, transition: Transition) -> None:
        if transition.state in ("ended", "failed"):
            # Apart from its frames: it takes the place of none of them.
            self._background.put(f"end of {transition.source}", transition)

    def close(self) -> None:
        # On its thread: a disk that hangs must not hold the exit.
        self._background.put("", None)
        self._background.close()
        if self.lost:
            self._warn(f"{self.lost} frames are missing in the recording")

    def _work(self, item: Result | Transition | None) -> None:
        if item is None:
            self._outlet.close()
        elif isinstance(item, Transition):
            self._outlet.end(item.source)
        else:
            self._outlet.take(item.frame, lambda: _drawn(item))


def check_record(target: str) -> None:
    """Raises OptionError or AddressError for a text that `record` cannot take."""
    if target.lower().startswith(_SERVED):
        address(target)
    elif re.match(r"\w{2,}:/", target):  # else a folder of that name, which may hold a password
        raise OptionError(
            f"--record {redact_address(target)} is no place for video",
            "write film.mkv, a folder/, or rtsp://:8554/NAME",
        )
    else:
        place_of(target)


def record(
    target: str,
    several: bool,
    stop: threading.Event,
    info: Callable[[str], None],
    warn: Callable[[str], None],
) -> Recording:
    """What `--record` says: a name ending in .mkv or .mp4, a folder, or `rtsp://:8554/NAME`.

    several: there is more than one source, so that names get theirs. stop: ends every wait, when it
    is set. say, warn: are told, on any thread, where the video is, and what is not in it. Raises
    OptionError or AddressError, StorageError when nothing can be written there, and MissingPackage.
    """
    check_record(target)
    if target.lower().startswith(_SERVED):
        return Recording(RtspServer(address(target), several, info, warn), stop, warn)
    return Recording(VideoFiles(target, several, info, warn), stop, warn)


def _drawn(result: Result) -> Surface:
    """The picture with its words. Raises SourceError when it cannot be brought to this memory."""
    picture, lines = result.frame.picture, tuple(caption_lines(result))
    if picture.layout.width < READABLE:
        picture = Surface.from_rgb(enlarged(result.frame.pixels))
    return captioned(picture, lines)
