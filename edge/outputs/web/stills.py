"""The newest picture of each source as a JPEG, made only while somebody looks at it.

A frame holds its camera's buffer, of which there are few. So at most one per source waits here, a
newer one takes its place, and it is let go of as soon as it is encoded.
"""

from __future__ import annotations

import io
import itertools
import math
import threading
import time
from dataclasses import dataclass
from typing import Any

from PIL import Image

from edge.errors import EdgeError
from edge.sources.frame import Frame

__all__ = ["Picture", "Pictures"]

WIDTH = 960  # pixels of the longer side at most
GAP = 0.1  # seconds from one picture of a source to the next at least
LOOKING = 2.0  # seconds that somebody is taken to look after he has asked
_QUALITY = 80
_CLOSING = 0.5  # seconds for the thread to end: one picture


@dataclass(frozen=True)
class Picture:
    """A JPEG, or in words why there is none; `about` is what came with its frame."""

    number: int
    jpeg: bytes
    problem: str
    about: dict[str, Any]


class Pictures:
    """Takes frames from the loop, and encodes them on a thread of its own."""

    def __init__(self) -> None:
        self._asked: dict[str, float] = {}  # `time.monotonic()`, by source
        self._taken: dict[str, float] = {}
        self._waiting: dict[str, tuple[Frame, dict[str, Any]]] = {}
        self._newest: dict[str, Picture] = {}
        self._condition = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="pictures", daemon=True)
        self._thread.start()

    def wants(self, source: str) -> bool:
        """Whether somebody looks at a source, and has not just got a picture of it."""
        now = time.monotonic()
        with self._condition:
            looked_at = now - self._asked.get(source, -math.inf) < LOOKING
            return looked_at and now - self._taken.get(source, -math.inf) >= GAP

    def put(self, frame: Frame, about: dict[str, Any]) -> None:
        """Have a frame encoded; one of the same source that still waits gives way to it."""
        with self._condition:
            self._taken[frame.source] = time.monotonic()
            self._waiting[frame.source] = frame, about
            self._condition.notify()

    def newest(self, source: str) -> Picture | None:
        """The newest picture that is ready, if any; to ask is to look."""
        with self._condition:
            self._asked[source] = time.monotonic()
            return self._newest.get(source)

    def close(self) -> None:
        """Let go of all frames, and end the thread."""
        with self._condition:
            self._closed = True
            self._waiting.clear()
            self._condition.notify()
        self._thread.join(_CLOSING)

    def _work(self) -> None:
        for number in itertools.count(1):
            with self._condition:
                self._condition.wait_for(lambda: self._closed or self._waiting)
                if self._closed:
                    return
                source = next(iter(self._waiting))  # whose turn came first
                frame, about = self._waiting.pop(source)
            began = time.monotonic()
            picture = Picture(number, *_encode(frame), about)
            del frame  # or it would be held while the next is waited for
            with self._condition:
                self._newest[source] = picture
                # It rests as long as it worked: half a core at most is taken from the engine.
                self._condition.wait_for(lambda: self._closed, time.monotonic() - began)


def _encode(frame: Frame) -> tuple[bytes, str]:
    """The JPEG, and in words why there is none."""
    try:
        picture = Image.fromarray(frame.pixels)
    except EdgeError as error:  # it cannot leave the GPU's memory; the numbers go on
        return b"", str(error)
    # First by whole factors, which is quick, then finely.
    picture.thumbnail((WIDTH, WIDTH), Image.Resampling.BILINEAR, reducing_gap=2.0)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue(), ""
