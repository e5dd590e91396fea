"""Recording to files: one video per source, or a folder with a new video every ten minutes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edge.errors import EdgeError, OptionError
from edge.files.redaction import redact
from edge.files.storage import check_target, make_folder, writing
from edge.outputs.record.encoder import encoder
from edge.outputs.record.fault_log import FaultLog
from edge.outputs.record.retention import check_free_space, file_name, timestamp, unused_path
from edge.outputs.record.video_writer import SUFFIXES, VideoWriter
from edge.preprocess.surface import Surface
from edge.sources.frame import Frame

__all__ = ["VideoFiles", "parse_target"]

_LENGTH = 600.0  # seconds of a video in a folder
_RETRY = 10.0  # seconds after a failure before recording is tried again
_SPACE_INTERVAL = 2.0  # seconds between two checks of the free space
_JITTER = 0.5  # seconds by which stream time may run ahead of the local clock
_RECOVERED = 1.0  # seconds of video after which a failed recording is reported to work again


@dataclass
class _SourceRecording:
    """The state of the recording of one source. Times in seconds.

    writer       the video that is being written; None between videos
    position     time of the newest frame since the first frame of the source
    video_start  `position` of the first frame of the current video
    last         `pts` and `captured` of the newest frame
    retry_at     after a failure: `time.monotonic()` before which nothing is written
    checked_at   `time.monotonic()` of the last check of the free space
    warned_slow  it was reported that frames are dropped because the encoder is too slow
    """

    writer: VideoWriter | None = None
    position: float = 0.0
    video_start: float = 0.0
    last: tuple[float | None, float] | None = None
    retry_at: float = 0.0
    checked_at: float = 0.0
    warned_slow: bool = False

    def advance(self, frame: Frame) -> None:
        """Advance `position` to a frame, by stream time or, if that is not usable, capture time.

        Stream time restarts when a source is reopened, and a camera's clock may be set. A file's
        stream time is always used if it increases, since a file may be read at any speed.
        """
        if self.last is not None:
            pts, captured = self.last
            elapsed = max(0.0, frame.captured - captured)
            step = frame.pts - pts if pts is not None and frame.pts is not None else 0.0
            jumps = frame.live and step > 2 * elapsed + _JITTER
            self.position += step if step > 0 and not jumps else elapsed
        self.last = frame.pts, frame.captured


def parse_target(target: str) -> tuple[Path, bool]:
    """The path of `--record`, and whether it is a folder.

    Raises OptionError for an unsupported suffix, StorageError for an invalid file name.
    """
    path = Path(target)
    with writing(path):
        is_folder = target.endswith("/") or path.is_dir() or not path.suffix
    if not is_folder and path.suffix not in SUFFIXES:
        shown = Path(redact(target))
        raise OptionError(
            f"--record {shown} is neither {' nor '.join(SUFFIXES)}",
            f"write {shown.with_suffix('.mkv')}, or a folder: {shown.with_suffix('')}/",
        )
    return path, is_folder


class VideoFiles:
    """Writes video files; a `VideoOutput`. A change of the frame size starts a new file.

    Existing files are never overwritten: the new file's name gets a number. If writing fails or
    the disk is too full, that is reported once per source and retried.
    """

    def __init__(
        self,
        target: str,
        several: bool,
        info: Callable[[str], None],
        warn: Callable[[str], None],
    ):
        """target: a file name ending in .mkv or .mp4, or a folder. several: add the source's name
        to the file name. info, warn: called with the paths of videos, and with what is missing.

        Raises OptionError for another suffix, StorageError when the target cannot be written,
        MissingPackage without an encoder.
        """
        self.lost = 0
        self._info, self._warn = info, warn
        self._several = several
        self._fault_log = FaultLog(warn)
        self._recordings: dict[str, _SourceRecording] = {}
        path, self._is_folder = parse_target(target)
        if self._is_folder:
            make_folder(path)
        else:
            check_target(path)
        self._path = path
        self._encoder = encoder()
        info(f"recording with {self._encoder.name}{self._encoder.reason}")

    def take(self, frame: Frame, draw: Callable[[], Surface]) -> None:
        recording = self._recordings.setdefault(frame.source, _SourceRecording())
        recording.advance(frame)
        now = time.monotonic()
        if now < recording.retry_at:
            self.lost += 1
            return
        try:
            if recording.writer is not None and not frame.live:
                recording.writer.wait_for_encoder()
            if recording.writer is not None and recording.writer.is_behind():
                self.lost += 1
                if not recording.warned_slow:
                    self._warn(
                        f"the recording of {frame.source} drops frames: the encoder or the disk "
                        "is too slow"
                    )
                recording.warned_slow = True
                return
            self._add(frame.source, recording, draw(), now)
        except EdgeError as error:
            self.lost += 1
            self._pause(frame.source, recording, error)

    def end(self, source: str) -> None:
        recording = self._recordings.pop(source, _SourceRecording())
        try:
            self._finish(recording)
        except EdgeError as error:
            self._pause(source, recording, error)

    def close(self) -> None:
        for source in list(self._recordings):
            self.end(source)

    def _add(self, source: str, recording: _SourceRecording, surface: Surface, now: float) -> None:
        full = self._is_folder and recording.position - recording.video_start >= _LENGTH
        writer = recording.writer
        if full or (writer is not None and writer.layout != surface.layout):
            self._finish(recording)
            writer = None
        if writer is None or now - recording.checked_at >= _SPACE_INTERVAL:
            check_free_space(self._path if self._is_folder else self._path.parent)
            recording.checked_at = now
        if writer is None:
            writer = VideoWriter(self._next_path(source), surface.layout, self._encoder)
            recording.writer, recording.video_start = writer, recording.position
            if not full:  # the regular change to the next file is not reported
                self._info(f"recording {source} to {writer.path}")
        time_in_video = recording.position - recording.video_start
        writer.add(surface, time_in_video)
        if time_in_video > _RECOVERED:
            self._fault_log.works(source, f"{source} is recorded")

    def _next_path(self, source: str) -> Path:
        """The path of the next video of a source."""
        if self._is_folder:
            return unused_path(self._path / f"{timestamp(time.time())}-{file_name(source)}.mkv")
        if self._several:
            return unused_path(self._path.with_stem(f"{self._path.stem}-{file_name(source)}"))
        return unused_path(self._path)

    def _finish(self, recording: _SourceRecording) -> None:
        """Complete the current video, if there is one. Raises StorageError."""
        writer, recording.writer = recording.writer, None
        if writer is not None:
            writer.close()

    def _pause(self, source: str, recording: _SourceRecording, error: EdgeError) -> None:
        """After an error: close the video, report the error and retry after some seconds."""
        with suppress(EdgeError):
            self._finish(recording)
        recording.retry_at = time.monotonic() + _RETRY
        consequence = f"the recording of {source} is paused, and retried every {_RETRY:.0f} s"
        self._fault_log.failed(source, error, consequence)
