"""One film of one source: labelled pictures in a Matroska or MP4 file that survives a kill."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from edge.errors import StorageError, require
from edge.outputs.record.encoder import Encoder, buffer_of, caps_of, lower_priority
from edge.preprocess.surface import Layout, Surface
from edge.sources.gst import gstreamer, pipeline_of

__all__ = ["SUFFIXES", "VideoWriter"]

# MP4 in fragments of a second: its index is in each of them, not at the end of the file.
_MUXERS = {".mkv": "matroskamux", ".mp4": "mp4mux fragment-duration=1000"}
SUFFIXES = tuple(_MUXERS)

_BACKLOG = 10  # pictures that wait for the encoder before more are left out
_AHEAD = 4  # pictures that wait of a source that can wait: all of them hold the end of a run
_STUCK = 10.0  # seconds without room for one more after which the encoder is given up
_SLICE = 0.005  # seconds between looks at whether there is room
_FINISH = 3  # seconds that the last pictures get to reach the disk
# Nanoseconds: between two pictures at least, and for which the last one is shown.
_STEP, _MOMENT = 1_000_000, 33_000_000


class VideoWriter:
    """A file being written. Owns a pipeline: close it, and see what that says.

    path     the file
    layout   of all its pictures: what has another belongs into another film
    """

    def __init__(self, path: Path, layout: Layout, encoder: Encoder):
        """Raises StorageError when the file cannot be made."""
        gst = gstreamer()
        self.path = path
        self.layout = layout
        try:
            self._pipeline = pipeline_of(
                "appsrc name=source format=time block=false max-bytes=0 ! "
                f"{encoder.elements} ! identity name=coded ! {_MUXERS[path.suffix]} ! "
                # Unbuffered: what is encoded is the system's, not ours, when this process dies.
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
        coded.add_probe(gst.PadProbeType.BUFFER, _last_a_moment)
        self._bus = self._pipeline.get_bus()
        lower_priority(self._pipeline)
        self._last = -_STEP
        self._error: StorageError | None = None
        self._pipeline.set_state(gst.State.PLAYING)
        try:
            self.behind()  # the file is opened by now, or that has failed
        except StorageError:
            self.close()
            raise

    def behind(self, backlog: int = _BACKLOG) -> bool:
        """Whether the encoder, or the disk, does not keep up: so many pictures wait for it.

        Raises StorageError when writing has failed.
        """
        if message := self._bus.pop_filtered(gstreamer().MessageType.ERROR):
            self._error = self._failure(message)
        if self._error is not None:
            raise self._error
        return bool(self._source.get_property("current-level-buffers") >= backlog)

    def await_room(self) -> None:
        """Wait until the encoder has work for a moment only.

        Raises StorageError when writing has failed, and when it is stuck.
        """
        deadline = time.monotonic() + _STUCK
        while self.behind(_AHEAD):
            if time.monotonic() > deadline:
                self._error = StorageError(
                    f"cannot write {self.path} (no picture went into it for {_STUCK:.0f} s)",
                    "look at the disk: dmesg",
                )
                raise self._error
            time.sleep(_SLICE)

    def add(self, picture: Surface, seconds: float) -> None:
        """Append a picture, shown from `seconds` after the first on."""
        buffer = buffer_of(picture)
        at = max(round(seconds * 1e9), self._last + _STEP)
        buffer.pts = self._last = at
        self._source.emit("push-buffer", buffer)

    def close(self) -> None:
        """Finish the film; after a failure only stop, and what was written can be played.

        Raises StorageError when its end could not be written.
        """
        gst = gstreamer()
        if self._error is not None:
            self._pipeline.set_state(gst.State.NULL)
            return
        self._source.emit("end-of-stream")
        wanted = gst.MessageType.EOS | gst.MessageType.ERROR
        message = self._bus.timed_pop_filtered(_FINISH * gst.SECOND, wanted)
        self._pipeline.set_state(gst.State.NULL)
        if message is None:
            raise StorageError(
                f"the end of {self.path} could not be written within {_FINISH} s",
                "look at the disk: dmesg",
            )
        if message.type == gst.MessageType.ERROR:
            raise self._failure(message)

    def _failure(self, message: Any) -> StorageError:
        error, _ = message.parse_error()
        return StorageError(
            f"cannot write {self.path} ({error.message.rstrip('.')})",
            "free some space, or record somewhere else",
        )


def _last_a_moment(_pad: Any, info: Any) -> Any:
    """Without a steady rate x264 says 1 ns, and GStreamer shows no picture that lasts so long."""
    info.get_buffer().duration = _MOMENT
    return gstreamer().PadProbeReturn.OK
