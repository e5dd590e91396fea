"""A sink that writes the newest labelled frame as PNG: `--preview`."""

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

__all__ = ["Preview", "annotate", "caption_lines", "check_preview"]


def check_preview(path: Path) -> None:
    """Raises StorageError if `path` does not end in .png or cannot be written."""
    if path.suffix.lower() != ".png":
        raise StorageError(
            f"the preview file {path} must end in .png", "write, for example, --preview frame.png"
        )
    check_target(path)


class Preview(Sink):
    """Keeps the newest result and, when closed, writes its frame with the label to a PNG file.

    The constructor raises like `check_preview`, so that a wrong path is reported when the run
    starts and not when it ends.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self._path = Path(path)
        check_preview(self._path)
        self._result: Result | None = None

    def write(self, result: Result) -> None:
        if self._result is None:
            _ = result.frame.host_surface  # raises at the first frame if it cannot be downloaded
        # No copy is needed: nobody writes to a frame again, and its memory is not reused.
        self._result = result

    def close(self) -> None:
        """Write the PNG atomically. Without any frame, write nothing."""
        if self._result is None:
            return
        frame = self._result.frame
        _, label, confidence = self._result.prediction.top(1)[0]
        place = f"frame {frame.number}, {self._result.age_ms:.0f} ms old, {frame.source}"
        image = Image.fromarray(annotate(frame.pixels, [f"{label}  {confidence:.1%}", place]))
        self._result = None
        encoded = io.BytesIO()
        image.save(encoded, format="PNG")
        write_bytes(self._path, encoded.getvalue())


def caption_lines(result: Result) -> list[str]:
    """The caption lines of a frame: its best class with the confidence; its time and source.

    The lines change seldom enough that one drawing of them serves many frames.
    """
    _, label, confidence = result.prediction.top(1)[0]
    moment = datetime.fromtimestamp(result.time, timezone.utc)
    place = f"{moment:%Y-%m-%d %H:%M:%S} UTC, {result.frame.source}"
    return [f"{label}  {confidence:.0%}", place]


def annotate(pixels: npt.NDArray[np.uint8], lines: list[str]) -> npt.NDArray[np.uint8]:
    """The image with a bar of text below it; the first line is highlighted.

    RGB uint8 [H, W, 3] -> RGB uint8 [H', W', 3], a new array. The text does not cover the image.
    An image too narrow for text is enlarged by an integer factor. Lines too long for the width
    are cut.
    """
    image = enlarged(pixels)
    text = bar(tuple(lines), image.shape[1])
    return np.concatenate((image, np.broadcast_to(text[..., None], (*text.shape, 3))))
