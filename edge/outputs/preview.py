"""A labelled frame as PNG, for `--preview`."""

from __future__ import annotations

import io
import os
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from edge.errors import StorageError
from edge.files.storage import check_target, write_bytes
from edge.outputs.record.overlay import bar, enlarged
from edge.run.interfaces import Result, Sink

__all__ = ["Preview", "annotate", "check_preview", "words"]


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
