"""Smoothing of predictions over the recent frames of each source: `--smooth`.

    0.5s          exponential: a frame t seconds ago has weight exp(-t / 0.5), at any frame rate
    majority:15   the class that was best in most of the last 15 frames

After a gap in a source's frames (see `cadence`) or a disconnect, smoothing starts afresh, so that
an earlier scene does not affect the prediction.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edge.engine.engine import Prediction
from edge.errors import OptionError
from edge.files.redaction import redact
from edge.outputs.record.cadence import Cadence
from edge.outputs.record.durations import seconds
from edge.run.interfaces import Sink
from edge.run.status import Transition

__all__ = ["Smooth", "smoothing"]

_MAX_FRAMES = 1000  # that vote: half a minute at 30 fps; all are counted again for each frame

Probabilities = npt.NDArray[np.float32]


class _Filter(Protocol):
    """The smoothing of one source."""

    def add(self, probabilities: Probabilities, time: float) -> Probabilities:
        """Add float32 [classes] of the frame at `time` seconds; return the smoothed ones."""


class Smooth(Sink):
    """Smooths the predictions of any number of sources, each separately.

    It is a sink in order to receive transitions: after a disconnect a source's state is discarded,
    since it may show another scene.
    """

    def __init__(self, new_filter: Callable[[], _Filter]):
        self._new_filter = new_filter
        self._filters: dict[str, tuple[Cadence, _Filter]] = {}

    def __call__(self, source: str, prediction: Prediction, captured: float) -> Prediction:
        """Add the prediction for a frame of `source` and return the smoothed prediction.

        captured: seconds, on a clock that runs with the scene: `cadence.frame_time`.
        """
        cadence, filter_ = self._filters.get(source) or (Cadence(), self._new_filter())
        if cadence.broken(captured):
            filter_ = self._new_filter()
        self._filters[source] = cadence, filter_
        return replace(prediction, probabilities=filter_.add(prediction.probabilities, captured))

    def changed(self, transition: Transition) -> None:
        if transition.state != "playing":
            self._filters.pop(transition.source, None)


def smoothing(text: str) -> Smooth:
    """The smoothing that `--smooth` asks for: a time constant such as `0.5s`, or `majority:FRAMES`.

    Raises OptionError.
    """
    kind, _, count = text.partition(":")
    is_number = count.isascii() and count.isdigit() and len(count) <= len(str(_MAX_FRAMES))
    frames = int(count) if is_number else 0
    if kind == "majority" and 2 <= frames <= _MAX_FRAMES:
        return Smooth(lambda: _Majority(frames))
    try:
        constant = seconds(text)
    except OptionError as error:
        without_unit = re.fullmatch(r"[2-9]|[1-9]\d\d?", text)
        time, count = (f"{text}s", text) if without_unit else ("0.5s", "15")
        raise OptionError(
            f"--smooth {redact(text)} is not understood",
            f"write {time}, or majority:{count} (2 to {_MAX_FRAMES} frames)",
        ) from error
    return Smooth(lambda: _Exponential(constant))


class _Exponential:
    """A first-order low-pass filter; a frame counts for the interval since the frame before it."""

    def __init__(self, constant: float):
        self._constant = constant
        self._time = -math.inf
        self._mean: Probabilities = np.zeros(0, np.float32)

    def add(self, probabilities: Probabilities, time: float) -> Probabilities:
        keep, self._time = np.float32(math.exp((self._time - time) / self._constant)), time
        self._mean = probabilities + keep * (self._mean - probabilities) if keep else probabilities
        return self._mean


class _Majority:
    """The mean of those recent frames whose best class is the class with the most votes.

    The confidence is thus comparable with that of a single frame and with the same thresholds. A
    tie is decided by the sum of the confidences of each class's votes.
    """

    def __init__(self, frames: int):
        self._votes: deque[Probabilities] = deque(maxlen=frames)

    def add(self, probabilities: Probabilities, time: float) -> Probabilities:
        self._votes.append(probabilities)
        ballots = np.stack(self._votes)
        best = ballots.argmax(axis=1)
        counts = np.bincount(best, minlength=ballots.shape[1])
        confidences = np.bincount(best, ballots.max(axis=1), minlength=ballots.shape[1])
        winner = np.lexsort((confidences, counts))[-1]
        mean: Probabilities = ballots[best == winner].mean(axis=0)
        return mean
