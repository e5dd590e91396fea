"""A sink that records labelled video to files or serves it over RTSP: `--record`.

    the loop's thread     queues each result and continues
    the drawing thread    copies the frame with its caption, at a lower priority
    GStreamer's threads   encode and write, one pipeline per source

Live sources never wait: frames for which the encoder or the disk is too slow are dropped and
counted. Other sources, such as a file that is read faster than it is encoded, wait and lose no
frame.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Protocol

from edge.errors import OptionError
from edge.files.redaction import redact_address
from edge.outputs.preview import caption_lines
from edge.outputs.record.overlay import READABLE, captioned, enlarged
from edge.outputs.record.rtsp import RtspServer, address
from edge.outputs.record.video_files import VideoFiles, parse_target
from edge.outputs.record.worker import Worker
from edge.preprocess.colour import upright
from edge.preprocess.surface import Surface
from edge.run.interfaces import Result, Sink
from edge.run.status import Transition
from edge.sources.frame import Frame

__all__ = ["Recording", "VideoOutput", "check_record", "record"]

_RTSP_SCHEME = "rtsp://"
_QUEUE_SIZE = 2  # frames of one source that wait to be drawn: each holds its camera's buffer
# Seconds to complete all videos. Together with all other waits at the end of a run it must be less
# than systemd's TimeoutStopSec. A video that was not completed is readable nevertheless.
_CLOSE_TIMEOUT = 4.0


class VideoOutput(Protocol):
    """A destination of labelled frames. All methods are called on the drawing thread.

    lost  number of dropped frames; may be read from any thread
    """

    lost: int

    def take(self, frame: Frame, draw: Callable[[], Surface]) -> None:
        """Output a frame as `draw` returns it, or drop it without calling `draw`.

        May block for some seconds if the frame is not live.
        """

    def end(self, source: str) -> None:
        """The source ended or failed; no more frames of it will follow."""

    def close(self) -> None:
        """Complete and close everything."""


class Recording(Sink):
    """Draws the labels of all sources' frames and passes the frames to a `VideoOutput`, which it
    owns.
    """

    def __init__(self, output: VideoOutput, stop: threading.Event, warn: Callable[[str], None]):
        """stop: when set, no source waits any more. warn: called with errors, and at the end with
        the number of missing frames.
        """
        self._output = output
        self._stop = stop
        self._warn = warn
        self._worker: Worker[Result | Transition | None] = Worker(
            "recording", self._work, _QUEUE_SIZE, _CLOSE_TIMEOUT, warn
        )

    @property
    def lost(self) -> int:
        """Number of frames that are not in the video, because of a slow encoder or a full disk."""
        return self._worker.lost + self._output.lost

    def write(self, result: Result) -> None:
        stop = None if result.frame.live else self._stop
        self._worker.put(result.frame.source, result, stop)

    def changed(self, transition: Transition) -> None:
        if transition.state in ("ended", "failed"):
            # A key of its own, so that it does not replace a queued frame.
            self._worker.put(f"end of {transition.source}", transition)

    def close(self) -> None:
        # Close on the drawing thread: a disk that hangs must not block the exit.
        self._worker.put("", None)
        self._worker.close()
        if self.lost:
            self._warn(f"{self.lost} frames are missing from the recording")

    def _work(self, item: Result | Transition | None) -> None:
        if item is None:
            self._output.close()
        elif isinstance(item, Transition):
            self._output.end(item.source)
        else:
            self._output.take(item.frame, lambda: _draw(item))


def check_record(target: str) -> None:
    """Raises OptionError or AddressError for a target that `record` does not accept."""
    if target.lower().startswith(_RTSP_SCHEME):
        address(target)
    elif re.match(r"\w{2,}:/", target):  # not a folder: the URL may hold a password
        raise OptionError(
            f"--record {redact_address(target)} is not a supported target",
            "write video.mkv, a folder/, or rtsp://:8554/NAME",
        )
    else:
        parse_target(target)


def record(
    target: str,
    several: bool,
    stop: threading.Event,
    info: Callable[[str], None],
    warn: Callable[[str], None],
) -> Recording:
    """The recording that `--record` asks for.

    target: a file name ending in .mkv or .mp4, a folder, or `rtsp://:8554/NAME`. several: there is
    more than one source, so names get the source's name. stop: when set, ends every wait. info,
    warn: called from any thread with where the video is, and with what is missing from it. Raises
    OptionError or AddressError, StorageError when the target cannot be written, and MissingPackage.
    """
    check_record(target)
    if target.lower().startswith(_RTSP_SCHEME):
        return Recording(RtspServer(address(target), several, info, warn), stop, warn)
    return Recording(VideoFiles(target, several, info, warn), stop, warn)


def _draw(result: Result) -> Surface:
    """The frame with its caption. Raises SourceError if it cannot be copied to system memory."""
    surface, lines = upright(result.frame.host_surface), tuple(caption_lines(result))
    if surface.layout.width < READABLE:
        surface = Surface.from_rgb(enlarged(result.frame.pixels))
    return captioned(surface, lines)
