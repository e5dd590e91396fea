"""JPEG encoding of the newest frame of each source, often while a browser shows it.

A frame holds its camera's buffer, of which there are few. So at most one frame per source waits
here, a newer one replaces it, and it is released as soon as it is encoded.
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

__all__ = ["Still", "Stills"]

MAX_SIDE = 960  # pixels of the longer side
MIN_INTERVAL = 0.1  # seconds between two images of a source
# Seconds between two images without a viewer: a page opened during an outage shows the last one.
UNSEEN_INTERVAL = 5.0
VIEWER_TIMEOUT = 2.0  # seconds after the last request for which a viewer is assumed
_QUALITY = 80
_CLOSE_TIMEOUT = 0.5  # seconds for the thread to end: the time for one image


@dataclass(frozen=True)
class Still:
    """An encoded frame.

    number   increases with each image of any source
    jpeg     empty if there is a problem
    problem  why the frame could not be encoded; else empty
    about    the data that was passed to `put` with the frame
    """

    number: int
    jpeg: bytes
    problem: str
    about: dict[str, Any]


class Stills:
    """Receives frames from the loop and encodes them on its own thread."""

    def __init__(self) -> None:
        # `time.monotonic()` of the last request and of the last frame, by source
        self._requested: dict[str, float] = {}
        self._taken: dict[str, float] = {}
        self._waiting: dict[str, tuple[Frame, dict[str, Any]]] = {}
        self._newest: dict[str, Still] = {}
        self._condition = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="stills", daemon=True)
        self._thread.start()

    def wants(self, source: str) -> bool:
        """Whether the last image of a source is older than `MIN_INTERVAL`.

        Without a viewer: than `UNSEEN_INTERVAL`.
        """
        now = time.monotonic()
        with self._condition:
            has_viewer = now - self._requested.get(source, -math.inf) < VIEWER_TIMEOUT
            interval = MIN_INTERVAL if has_viewer else UNSEEN_INTERVAL
            return now - self._taken.get(source, -math.inf) >= interval

    def put(self, frame: Frame, about: dict[str, Any]) -> None:
        """Queue a frame for encoding; it replaces a queued frame of the same source."""
        with self._condition:
            self._taken[frame.source] = time.monotonic()
            self._waiting[frame.source] = frame, about
            self._condition.notify()

    def newest(self, source: str) -> Still | None:
        """The newest encoded image, if any. The call counts as a request of a viewer."""
        with self._condition:
            self._requested[source] = time.monotonic()
            return self._newest.get(source)

    def close(self) -> None:
        """Release all frames and end the thread."""
        with self._condition:
            self._closed = True
            self._waiting.clear()
            self._condition.notify()
        self._thread.join(_CLOSE_TIMEOUT)

    def _work(self) -> None:
        for number in itertools.count(1):
            with self._condition:
                self._condition.wait_for(lambda: self._closed or self._waiting)
                if self._closed:
                    return
                source = next(iter(self._waiting))  # the one that has waited longest
                frame, about = self._waiting.pop(source)
            start = time.monotonic()
            still = Still(number, *_encode(frame), about)
            del frame  # otherwise it is held while the thread waits for the next frame
            with self._condition:
                self._newest[source] = still
                # Pause for as long as encoding took: this takes at most half a core.
                self._condition.wait_for(lambda: self._closed, time.monotonic() - start)


def _encode(frame: Frame) -> tuple[bytes, str]:
    """The JPEG, and why there is none; one of both is empty."""
    try:
        image = Image.fromarray(frame.pixels)
    except EdgeError as error:  # the frame cannot be downloaded from the GPU; the page shows why
        return b"", str(error)
    # reducing_gap: first reduce by an integer factor, which is fast, then resample.
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue(), ""
