"""A sink that writes results as lines to a text stream, by default as JSON."""

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
    "Lines",
    "as_json",
    "utc",
]

TOP = 5  # classes per result
_POLL_MS = 100  # milliseconds to wait for the stream's reader before `stop` is checked again


def as_json(result: Result) -> str:
    """The result as one line of JSON, without the newline; every machine-readable sink uses it.

    Keys: source, frame, pts (seconds or null), time (UTC, when the frame was captured), top (list
    of label, class_id, confidence), age_ms and latency_ms.
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
    """A time, in seconds since 1970, in the format of all JSON output: 2025-01-31T11:59:59.750Z."""
    moment = datetime.fromtimestamp(seconds, timezone.utc).replace(tzinfo=None)
    return f"{moment.isoformat(timespec='milliseconds')}Z"


class Lines(Sink):
    """Writes one line per result to a text stream, by default JSON, and flushes it immediately.

    The caller owns the stream; it stays open. While nobody reads the stream, results of live
    sources are dropped, and results of other sources wait until there is a reader or `stop` is set.

    lost  number of dropped results
    """

    def __init__(
        self,
        stream: IO[str],
        stop: threading.Event | None = None,
        warn: Callable[[str], None] = lambda text: None,
        render: Callable[[Result], str | None] = as_json,
    ):
        """render: the line of a result; None: it gets none."""
        self.lost = 0
        self._stream, self._warn, self._render = stream, warn, render
        self._stop = stop or threading.Event()
        self._writable = select.poll()
        self._writable.register(stream.fileno(), select.POLLOUT)

    def write(self, result: Result) -> None:
        """Raises BrokenPipeError when the reader has closed, StorageError when the disk is full."""
        if (line := self._render(result)) is None:
            return
        # A pipe that is writable takes up to 4096 bytes (PIPE_BUF) without blocking: pipe(7).
        while not self._writable.poll(0 if result.frame.live else _POLL_MS):
            if result.frame.live or self._stop.is_set():
                if not self.lost:
                    self._warn("nobody reads the results: they are dropped until somebody does")
                self.lost += 1
                return
        try:
            self._stream.write(f"{line}\n")
            self._stream.flush()
        except BrokenPipeError:
            drop_unread(self._stream)
            raise
        except OSError as error:
            drop_unread(self._stream)
            raise StorageError(
                f"cannot write results ({error.strerror or error})", "free some space"
            ) from error
