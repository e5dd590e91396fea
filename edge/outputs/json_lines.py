"""Results as JSON lines on a text stream."""

from __future__ import annotations

import json
import select
import threading
from collections.abc import Callable
from datetime import datetime, timezone
from typing import IO

from edge.errors import StorageError
from edge.files.storage import drop_unread
from edge.run.interfaces import Result, Sink

__all__ = [
    "JsonLines",
    "as_json",
    "utc",
]

TOP = 5  # classes told per frame
_SLICE = 100  # milliseconds to wait for a reader, between two looks at `stop`


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
