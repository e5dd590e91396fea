"""Labelled video in files: a film of each source, or a folder with one for every ten minutes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edge.errors import EdgeError, OptionError
from edge.files.storage import check_target, make_folder, writing
from edge.outputs.record.encoder import encoder
from edge.outputs.record.fault_log import FaultLog
from edge.outputs.record.retention import check_free_space, file_name, timestamp, unused_path
from edge.outputs.record.video_writer import SUFFIXES, VideoWriter
from edge.preprocess.surface import Surface
from edge.sources.frame import Frame

__all__ = ["VideoFiles", "place_of"]

_LENGTH = 600.0  # seconds of a film in a folder
_RETRY = 10.0  # seconds after a failure
_LOOK = 2.0  # seconds between two looks at how much room is left
_JITTER = 0.5  # seconds by which a stream's time may go on faster than our own
_PROVEN = 1.0  # seconds of film after which a disk that failed is said to work again


@dataclass
class _Track:
    """The recording of one source. Times in seconds.

    clip     what is written now; None between films
    at       where the source is, from its first frame on
    began    `at` of the first frame of the clip
    last     `pts` and `captured` of the newest frame
    resume   `time.monotonic()` before which nothing is tried, after a failure
    looked   `time.monotonic()` of the last look at the room that is left
    slow     frames were left out, and that was said
    """

    clip: VideoWriter | None = None
    at: float = 0.0
    began: float = 0.0
    last: tuple[float | None, float] | None = None
    resume: float = 0.0
    looked: float = 0.0
    slow: bool = False

    def move(self, frame: Frame) -> None:
        """Go on to a frame: by stream time, or by the time between, where that is no measure.

        It begins anew with a source, and a camera's clock may be set; a film's may go at any speed.
        """
        if self.last is not None:
            pts, captured = self.last
            between = max(0.0, frame.captured - captured)
            step = frame.pts - pts if pts is not None and frame.pts is not None else 0.0
            jumps = frame.live and step > 2 * between + _JITTER
            self.at += step if step > 0 and not jumps else between
        self.last = frame.pts, frame.captured


def place_of(target: str) -> tuple[Path, bool]:
    """Where films go, and whether that is a folder.

    Raises OptionError for another ending, StorageError for a name that no file can have.
    """
    path = Path(target)
    with writing(path):
        is_folder = target.endswith("/") or path.is_dir() or not path.suffix
    if not is_folder and path.suffix not in SUFFIXES:
        raise OptionError(
            f"--record {target} is neither {' nor '.join(SUFFIXES)}",
            f"write {path.with_suffix('.mkv')}, or a folder: {path.with_suffix('')}/",
        )
    return path, is_folder


class VideoFiles:
    """Writes films; an `Outlet`. A picture of another size begins a new one.

    A file that is there is never written over: the new one gets a number. When writing fails, or
    the disk has no room to spare, that is said once for each source, and tried again.
    """

    def __init__(
        self,
        target: str,
        several: bool,
        info: Callable[[str], None],
        warn: Callable[[str], None],
    ):
        """target: a name ending in .mkv or .mp4, or a folder. several: a file's name gets the
        source's. say, warn: are told where films are, and what is not in them.

        Raises OptionError for another ending, StorageError when nothing can be written there,
        MissingPackage without an encoder.
        """
        self.lost = 0
        self._info, self._warn = info, warn
        self._several = several
        self._fault_log = FaultLog(warn)
        self._tracks: dict[str, _Track] = {}
        path, self._is_folder = place_of(target)
        if self._is_folder:
            make_folder(path)
        else:
            check_target(path)
        self._path = path
        self._encoder = encoder()
        info(f"recording with {self._encoder.name}{self._encoder.reason}")

    def take(self, frame: Frame, draw: Callable[[], Surface]) -> None:
        track = self._tracks.setdefault(frame.source, _Track())
        track.move(frame)
        now = time.monotonic()
        if now < track.resume:
            self.lost += 1
            return
        try:
            if track.clip is not None and not frame.live:
                track.clip.await_room()
            if track.clip is not None and track.clip.behind():
                self.lost += 1
                if not track.slow:
                    self._warn(
                        f"the recording of {frame.source} leaves out what is too much for it"
                    )
                track.slow = True
                return
            self._add(frame.source, track, draw(), now)
        except EdgeError as error:
            self.lost += 1
            self._fail(frame.source, track, error)

    def end(self, source: str) -> None:
        track = self._tracks.pop(source, _Track())
        try:
            self._finish(track)
        except EdgeError as error:
            self._fail(source, track, error)

    def close(self) -> None:
        for source in list(self._tracks):
            self.end(source)

    def _add(self, source: str, track: _Track, picture: Surface, now: float) -> None:
        full = self._is_folder and track.at - track.began >= _LENGTH
        if full or (track.clip is not None and track.clip.layout != picture.layout):
            self._finish(track)
        if track.clip is None or now - track.looked >= _LOOK:
            check_free_space(self._path if self._is_folder else self._path.parent)
            track.looked = now
        if track.clip is None:
            track.clip = VideoWriter(self._place(source), picture.layout, self._encoder)
            track.began = track.at
            if not full:  # one more of the same is nothing new
                self._info(f"recording {source} to {track.clip.path}")
        track.clip.add(picture, track.at - track.began)
        if track.at - track.began > _PROVEN:
            self._fault_log.works(source, f"{source} is recorded")

    def _place(self, source: str) -> Path:
        """Where the next film of a source goes."""
        if self._is_folder:
            return unused_path(self._path / f"{timestamp(time.time())}-{file_name(source)}.mkv")
        if self._several:
            return unused_path(self._path.with_stem(f"{self._path.stem}-{file_name(source)}"))
        return unused_path(self._path)

    def _finish(self, track: _Track) -> None:
        """End a film, if there is one. Raises StorageError."""
        clip, track.clip = track.clip, None
        if clip is not None:
            clip.close()

    def _fail(self, source: str, track: _Track, error: EdgeError) -> None:
        """Save what can be saved, say what is wrong, and leave it for some seconds."""
        with suppress(EdgeError):
            self._finish(track)
        track.resume = time.monotonic() + _RETRY
        then = f"the recording of {source} pauses, and is tried every {_RETRY:.0f} s"
        self._fault_log.failed(source, error, then)
