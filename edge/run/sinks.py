"""Where results go: JSON lines for programs, a labelled picture for people."""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from edge.errors import StorageError, printable
from edge.preprocess.surface import DeviceSurface
from edge.run.frames import Frame
from edge.run.status import Transition
from edge.storage import check_target, drop_unread, write_bytes

__all__ = ["JsonLines", "Prediction", "Preview", "Result", "Sink", "annotate", "as_json"]

TOP = 5  # classes told per frame


class Prediction(Protocol):
    """What a result says about its frame."""

    def top(self, k: int) -> list[tuple[int, str, float]]:
        """The k most probable classes, or all: (class_id, label, confidence), best first."""


@dataclass(frozen=True, eq=False)
class Result:
    """A frame and what the engine says about it.

    age_ms      milliseconds from the moment the picture was at the source to this result
    latency_ms  milliseconds from the moment the frame was taken from the source to this result
    """

    frame: Frame
    prediction: Prediction
    age_ms: float
    latency_ms: float


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

    Keys: source, frame, pts (seconds or null), top (label, class_id, confidence), age_ms and
    latency_ms.
    """
    frame = result.frame
    line = {
        "source": frame.source,
        "frame": frame.number,
        "pts": frame.pts,
        "top": [
            {"label": label, "class_id": class_id, "confidence": round(confidence, 6)}
            for class_id, label, confidence in result.prediction.top(TOP)
        ],
        "age_ms": round(result.age_ms, 3),
        "latency_ms": round(result.latency_ms, 3),
    }
    return json.dumps(line)


class JsonLines(Sink):
    """One JSON object per result on a text stream, flushed at once: a pipe's reader never waits.

    The stream is the caller's, and stays open.
    """

    def __init__(self, stream: IO[str]):
        self._stream = stream

    def write(self, result: Result) -> None:
        """Raises BrokenPipeError when the reader has gone, StorageError when the disk is full."""
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


class Preview(Sink):
    """Keeps the newest result, and at the end writes it to a PNG with its label on it.

    Raises StorageError at once when the folder cannot be written or the name is not that of a PNG,
    not at the end of a long run.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self._path = Path(path)
        if self._path.suffix.lower() != ".png":
            raise StorageError(f"the preview {path} is no .png", "name it so: --preview frame.png")
        check_target(self._path)
        self._result: Result | None = None

    def write(self, result: Result) -> None:
        if isinstance(result.frame.surface, DeviceSurface):
            _ = result.frame.pixels  # raises, at the first frame: nothing here brings it back
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


def annotate(pixels: npt.NDArray[np.uint8], lines: list[str]) -> npt.NDArray[np.uint8]:
    """The picture with a bar of text under it; the first line stands out.

    RGB uint8 [H, W, 3] -> RGB uint8 [H', W', 3], a new array. The picture is not covered, and one
    too small for text is enlarged by a whole factor. A line too long for the width is cut.
    """
    height, width = pixels.shape[:2]
    factor = max(1, -(-320 // width))
    height, width = height * factor, width * factor
    size = max(14, width // 36)
    font, row = ImageFont.load_default(size), size * 3 // 2
    canvas = Image.new("RGB", (width, height + row * len(lines) + row // 2), (24, 24, 24))
    picture = np.repeat(np.repeat(pixels, factor, axis=0), factor, axis=1)
    canvas.paste(Image.fromarray(picture), (0, 0))
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        line = text = printable(line)
        while text and draw.textlength(text, font=font) > width - row:
            line = line[:-1]
            text = f"{line}…" if line else ""
        colour = (255, 255, 255) if number == 0 else (180, 180, 180)
        draw.text((row // 2, height + row // 4 + row * number), text, fill=colour, font=font)
    return np.asarray(canvas)
