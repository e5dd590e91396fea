"""Where results go: JSON lines for programs, a labelled picture for people."""

from __future__ import annotations

import io
import json
import os
import select
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from edge.errors import StorageError
from edge.run.frames import Frame
from edge.run.record.caption import bar, enlarged
from edge.run.status import Transition
from edge.storage import check_target, drop_unread, write_bytes

__all__ = [
    "JsonLines",
    "Prediction",
    "Preview",
    "Result",
    "Sink",
    "annotate",
    "as_json",
    "check_preview",
    "utc",
    "words",
]

TOP = 5  # classes told per frame
_SLICE = 100  # milliseconds to wait for a reader, between two looks at `stop`


class Prediction(Protocol):
    """What a result says about its frame."""

    def top(self, k: int) -> list[tuple[int, str, float]]:
        """The k most probable classes, or all: (class_id, label, confidence), best first."""


@dataclass(frozen=True, eq=False)
class Result:
    """A frame and what the engine says about it.

    age_ms      milliseconds from the moment the picture was at the source to this result
    latency_ms  milliseconds from the moment the frame was taken from the source to this result
    time        seconds since 1970 at which the picture was at the source, by the wall clock of
                this result: what waits for a broker or a disk still tells how old it is
    """

    frame: Frame
    prediction: Prediction
    age_ms: float
    latency_ms: float
    time: float


class Sink:
    """Takes results, and changes of state; the loop calls it on one thread, and closes it once.

    What takes long is done on a thread of the sink's own: the engine waits for `write`. A frame
    that is kept holds its camera's buffer, of which there are few.
    """

    def write(self, result: Result) -> None:
        """Take a result. A BrokenPipeError ends the run: nobody reads any more."""

    def changed(self, transition: Transition) -> None:
        """A source is in another state now; that it plays comes before its first result."""

    def close(self) -> None:
        """The run is over. Everything taken is written, or counted as lost, before this returns."""


def as_json(result: Result) -> str:
    """The result as one line of JSON, without its end: what every sink for programs writes.

    Keys: source, frame, pts (seconds or null), time (UTC, when the picture was at the source), top
    (label, class_id, confidence), age_ms and latency_ms.
    """
    frame = result.frame
    line = {
        "source": frame.source,
        "frame": frame.number,
        "pts": frame.pts,
        "time": utc(result.time),
        "top": [
            {"label": label, "class_id": class_id, "confidence": round(confidence, 6)}
            for class_id, label, confidence in result.prediction.top(TOP)
        ],
        "age_ms": round(result.age_ms, 3),
        "latency_ms": round(result.latency_ms, 3),
    }
    return json.dumps(line)


def utc(seconds: float) -> str:
    """A moment, seconds since 1970, as all JSON has it: 2025-01-31T11:59:59.750Z."""
    moment = datetime.fromtimestamp(seconds, timezone.utc).replace(tzinfo=None)
    return f"{moment.isoformat(timespec='milliseconds')}Z"


class JsonLines(Sink):
    """One JSON object per result on a text stream, flushed at once: a pipe's reader never waits.

    The stream is the caller's, and stays open. While nobody reads it, results of live sources are
    left out, and others wait, but for `stop`.

    lost  results that nobody took
    """

    def __init__(
        self,
        stream: IO[str],
        stop: threading.Event | None = None,
        warn: Callable[[str], None] = lambda text: None,
    ):
        self.lost = 0
        self._stream, self._warn = stream, warn
        self._stop = stop or threading.Event()
        self._room = select.poll()
        self._room.register(stream.fileno(), select.POLLOUT)

    def write(self, result: Result) -> None:
        """Raises BrokenPipeError when the reader has gone, StorageError when the disk is full."""
        # A pipe that has room takes a line of up to 4096 bytes whole: pipe(7).
        while not self._room.poll(0 if result.frame.live else _SLICE):
            if result.frame.live or self._stop.is_set():
                if not self.lost:
                    self._warn("nobody reads the results: they are left out until somebody does")
                self.lost += 1
                return
        try:
            self._stream.write(f"{as_json(result)}\n")
            self._stream.flush()
        except BrokenPipeError:
            drop_unread(self._stream)
            raise
        except OSError as error:
            drop_unread(self._stream)
            raise StorageError(
                f"cannot write results ({error.strerror or error})", "free some space"
            ) from error


def check_preview(path: Path) -> None:
    """Raises StorageError when the name is not that of a PNG, or it cannot be written there."""
    if path.suffix.lower() != ".png":
        raise StorageError(f"the preview {path} is no .png", "name it so: --preview frame.png")
    check_target(path)


class Preview(Sink):
    """Keeps the newest result, and at the end writes it to a PNG with its label on it.

    Raises as `check_preview`, at once, and not at the end of a long run.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self._path = Path(path)
        check_preview(self._path)
        self._result: Result | None = None

    def write(self, result: Result) -> None:
        if self._result is None:
            _ = result.frame.picture  # raises, at the first frame, if it cannot be shown
        # No copy: frames are never written to again, and their memory stays theirs.
        self._result = result

    def close(self) -> None:
        """Write the picture, whole or not at all; without any frame, write nothing."""
        if self._result is None:
            return
        frame = self._result.frame
        _, label, confidence = self._result.prediction.top(1)[0]
        place = f"frame {frame.number}, {self._result.age_ms:.0f} ms old, {frame.source}"
        picture = Image.fromarray(annotate(frame.pixels, [f"{label}  {confidence:.1%}", place]))
        self._result = None
        encoded = io.BytesIO()
        picture.save(encoded, format="PNG")
        write_bytes(self._path, encoded.getvalue())


def words(result: Result) -> list[str]:
    """What stands under a picture: its best class, and when and where it was.

    The text changes rarely enough to be drawn once for many frames.
    """
    _, label, confidence = result.prediction.top(1)[0]
    moment = datetime.fromtimestamp(result.time, timezone.utc)
    place = f"{moment:%Y-%m-%d %H:%M:%S} UTC, {result.frame.source}"
    return [f"{label}  {confidence:.0%}", place]


def annotate(pixels: npt.NDArray[np.uint8], lines: list[str]) -> npt.NDArray[np.uint8]:
    """The picture with a bar of text under it; the first line stands out.

    RGB uint8 [H, W, 3] -> RGB uint8 [H', W', 3], a new array. The picture is not covered, and one
    too small for text is enlarged by a whole factor. A line too long for the width is cut.
    """
    picture = enlarged(pixels)
    text = bar(tuple(lines), picture.shape[1])
    return np.concatenate((picture, np.broadcast_to(text[..., None], (*text.shape, 3))))
