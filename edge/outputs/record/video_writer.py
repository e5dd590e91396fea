"""A writer for one video file, Matroska or MP4, that stays readable if the process is killed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from edge.errors import StorageError, require
from edge.outputs.record.encoder import Encoder, buffer_of, caps_of, lower_priority
from edge.preprocess.surface import Layout, Surface
from edge.sources.gst import gstreamer, parse_pipeline

__all__ = ["SUFFIXES", "VideoWriter"]

# Fragmented MP4: each one-second fragment has its own index, so a file without an end is readable.
_MUXERS = {".mkv": "matroskamux", ".mp4": "mp4mux fragment-duration=1000"}
SUFFIXES = tuple(_MUXERS)

_BACKLOG = 10  # frames of a live source that wait for the encoder before more are dropped
_FILE_BACKLOG = 4  # of other sources; fewer, since `close` has to wait until all are encoded
_STUCK_TIMEOUT = 10.0  # seconds without progress after which the encoder is given up
_POLL = 0.005  # seconds between checks of the backlog
_CLOSE_TIMEOUT = 3  # seconds for the last frames to reach the disk
_MIN_INTERVAL = 1_000_000  # nanoseconds between two frames, at least
_LAST_DURATION = 33_000_000  # nanoseconds for which the last frame is shown


class VideoWriter:
    """A video file that is being written. It owns a GStreamer pipeline and must be closed.

    path     the file
    layout   of all its frames; frames with another layout need another file
    """

    def __init__(self, path: Path, layout: Layout, encoder: Encoder):
        """Raises StorageError when the file cannot be created."""
        gst = gstreamer()
        self.path = path
        self.layout = layout
        try:
            self._pipeline = parse_pipeline(
                "appsrc name=source format=time block=false max-bytes=0 ! "
                f"{encoder.elements} ! identity name=coded ! {_MUXERS[path.suffix]} ! "
                # Unbuffered: encoded data survives if this process is killed.
                "filesink name=file async=false buffer-mode=unbuffered"
            )
        except require("gi.repository.GLib").Error as error:
            raise StorageError(
                f"cannot write {path} ({error.message})",
                "run sudo apt install gstreamer1.0-plugins-good",
            ) from error
        self._source = self._pipeline.get_by_name("source")
        self._source.set_property("caps", caps_of(layout))
        self._pipeline.get_by_name("file").set_property("location", str(path))
        coded = self._pipeline.get_by_name("coded").get_static_pad("src")
        coded.add_probe(gst.PadProbeType.BUFFER, _set_duration)
        self._bus = self._pipeline.get_bus()
        lower_priority(self._pipeline)
        self._last = -_MIN_INTERVAL
        self._error: StorageError | None = None
        self._pipeline.set_state(gst.State.PLAYING)
        try:
            self.is_behind()  # raises if the file could not be opened
        except StorageError:
            self.close()
            raise

    def is_behind(self, backlog: int = _BACKLOG) -> bool:
        """Whether encoder or disk are too slow: at least `backlog` frames wait.

        Raises StorageError when writing has failed.
        """
        if message := self._bus.pop_filtered(gstreamer().MessageType.ERROR):
            self._error = self._failure(message)
        if self._error is not None:
            raise self._error
        return bool(self._source.get_property("current-level-buffers") >= backlog)

    def wait_for_encoder(self) -> None:
        """Wait until fewer than `_FILE_BACKLOG` frames are queued.

        Raises StorageError when writing has failed or made no progress for `_STUCK_TIMEOUT`.
        """
        deadline = time.monotonic() + _STUCK_TIMEOUT
        while self.is_behind(_FILE_BACKLOG):
            if time.monotonic() > deadline:
                self._error = StorageError(
                    f"cannot write {self.path} (no frame was accepted for {_STUCK_TIMEOUT:.0f} s)",
                    "check the disk: dmesg",
                )
                raise self._error
            time.sleep(_POLL)

    def add(self, surface: Surface, seconds: float) -> None:
        """Append a frame that is shown `seconds` after the first one."""
        buffer = buffer_of(surface)
        buffer.pts = self._last = max(round(seconds * 1e9), self._last + _MIN_INTERVAL)
        self._source.emit("push-buffer", buffer)

    def close(self) -> None:
        """Complete the file. After a failure only stop; what was written remains readable.

        Raises StorageError when the file could not be completed.
        """
        gst = gstreamer()
        if self._error is not None:
            self._pipeline.set_state(gst.State.NULL)
            return
        self._source.emit("end-of-stream")
        wanted = gst.MessageType.EOS | gst.MessageType.ERROR
        message = self._bus.timed_pop_filtered(_CLOSE_TIMEOUT * gst.SECOND, wanted)
        self._pipeline.set_state(gst.State.NULL)
        if message is None:
            raise StorageError(
                f"{self.path} could not be completed within {_CLOSE_TIMEOUT} s",
                "check the disk: dmesg",
            )
        if message.type == gst.MessageType.ERROR:
            raise self._failure(message)

    def _failure(self, message: Any) -> StorageError:
        error, _ = message.parse_error()
        return StorageError(
            f"cannot write {self.path} ({error.message.rstrip('.')})",
            "free some space, or record somewhere else",
        )


def _set_duration(_pad: Any, info: Any) -> Any:
    """Pad probe that sets the duration of each encoded frame.

    With a variable frame rate x264 sets 1 ns, and GStreamer shows no frame of such a duration.
    """
    info.get_buffer().duration = _LAST_DURATION
    return gstreamer().PadProbeReturn.OK
